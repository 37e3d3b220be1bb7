"""A memory control group for each worker, if available: a limit that also counts the kernel's memory.

A child's verdict always depends on its resident memory, so that it is the same on machines without such a group. The
group's limit is higher. It covers memory that is not resident (socket buffers, files in memory) and allocations between
two samples. The group's peak is exact.

This works with cgroup v1, and with cgroup v2 if the ``memory`` controller is or can be enabled for children of this
process's group. A v2 group that contains processes cannot enable it: start the command in a separate leaf group.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

_PREFIX = "dreamprm-judge-"
_SLACK_BYTES = 64 << 20  # for the worker itself and the kernel's own memory
_STEP_BYTES = 4 << 20  # granularity of limits: an unchanged limit is not written again
_END_SECONDS = 2.0  # time for the processes of a stopped worker to leave their group
_numbers = itertools.count()


class _Interface(NamedTuple):
    """Names of the files of a group."""

    limit: str
    peak: str  # can be reset by a write: v1, and v2 from Linux 6.12 on
    hits: str  # how often the limit was reached; in v2, the line "oom N" of this file


_VERSION_2 = _Interface("memory.max", "memory.peak", "memory.events")
_VERSION_1 = _Interface("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt")


def own_group(membership: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/proc/mounts")) -> Path | None:
    """The folder of this process's memory control group, if groups can be created in it."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
        mounted = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in lines:
        kind, option = ("cgroup", "memory") if "memory" in controllers.split(",") else ("cgroup2", "")
        if controllers and kind == "cgroup2":
            continue  # another v1 controller
        for mount in mounted:
            if mount[2] == kind and (not option or option in mount[3].split(",")):
                folder = Path(mount[1]) / path.lstrip("/")
                if kind == "cgroup" or _turns_on(folder):
                    return folder if os.access(folder, os.W_OK) else None
    return None


def _turns_on(folder: Path) -> bool:
    """Whether groups in this v2 group can limit memory."""
    try:
        if "memory" not in (folder / "cgroup.controllers").read_text().split():
            return False
        switch = folder / "cgroup.subtree_control"
        if "memory" not in switch.read_text().split():
            switch.write_text("+memory")
        return "memory" in switch.read_text().split()
    except OSError:
        return False


class ControlGroup:
    """The group of one worker and its children."""

    def __init__(self, base: Path) -> None:
        """Creates a group in ``base``, and removes groups that a killed judge left there.

        Raises:
          OSError: if that is not allowed.
        """
        for left in base.glob(f"{_PREFIX}*"):
            if not Path(f"/proc/{left.name.removeprefix(_PREFIX).partition('-')[0]}").exists():
                with contextlib.suppress(OSError):
                    left.rmdir()
        self._folder = base / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folder.mkdir()
        self._names = _VERSION_2 if (base / "cgroup.controllers").exists() else _VERSION_1
        self._limit = self._hits = self._before = 0
        self._peak = self._open(self._names.peak, os.O_RDWR)
        self._events = self._open(self._names.hits, os.O_RDONLY)

    def _open(self, name: str, access: int) -> int:
        try:
            return os.open(self._folder / name, access | os.O_CLOEXEC)
        except OSError:
            return -1

    def add(self, pid: int) -> None:
        """Moves a process into the group; its children start in it."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def begin(self, memory_bytes: int, wants_peak: bool) -> None:
        """Sets the next child's limit, which includes files in memory. ``wants_peak``: ``peak`` will be called."""
        with contextlib.suppress(OSError, ValueError):
            limit = -(-memory_bytes // _STEP_BYTES) * _STEP_BYTES + _SLACK_BYTES
            if limit != self._limit:
                (self._folder / self._names.limit).write_text(str(limit))
                self._limit = limit
            self._hits = self._read_hits()
            if wants_peak and self._peak >= 0:
                os.pwrite(self._peak, b"0", 0)
                self._before = int(os.pread(self._peak, 100, 0))

    def reached(self) -> bool:
        """Whether the limit was reached since ``begin``."""
        try:
            return self._read_hits() > self._hits
        except (OSError, ValueError):
            return False

    def peak(self) -> int | None:
        """Peak memory in bytes since ``begin``, beyond that of the worker; None if the kernel does not report it."""
        try:
            return max(0, int(os.pread(self._peak, 100, 0)) - self._before)
        except (OSError, ValueError):
            return None

    def _read_hits(self) -> int:
        text = os.pread(self._events, 1000, 0)
        if self._names is _VERSION_1:
            return int(text)
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(b"oom "))

    def close(self) -> None:
        """Removes the group, whose processes have ended."""
        for descriptor in (self._peak, self._events):
            if descriptor >= 0:
                os.close(descriptor)
        self._peak = self._events = -1
        deadline = time.monotonic() + _END_SECONDS
        while True:
            try:
                self._folder.rmdir()
            except OSError:
                if self._folder.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
            return
