"""What the kernel says about one child while it runs: its memory, its threads, how long it had no core."""

from __future__ import annotations

import os

_NANOSECONDS = 1e9


class ChildUsage:
    """Reads /proc for one child. Its process id there is looked up once, and only if something is asked."""

    def __init__(self, pidfd: int) -> None:
        """Watches the process of ``pidfd``."""
        self._pidfd = pidfd
        self._folder = ""
        self._waited = 0.0

    def status(self) -> tuple[int, int]:
        """Returns (resident bytes, swapped memory included; number of threads).

        Raises:
          OSError: if /proc cannot be read.
        """
        fields = _fields(f"{self._find()}/status")
        pages = sum(int(fields.get(name, b"0").split()[0]) for name in (b"VmRSS", b"VmSwap"))
        return pages << 10, int(fields[b"Threads"])

    def waited(self) -> float:
        """Seconds that the child's threads were ready to run and had no core; 0 on a kernel that does not count it.

        Threads that ended since the last call are missing, so the largest sum so far is returned.
        """
        total = 0
        try:
            tasks = f"{self._find()}/task"
            for thread in os.listdir(tasks):
                total += int(_read(f"{tasks}/{thread}/schedstat").split()[1])
        except (OSError, IndexError):
            pass
        self._waited = max(self._waited, total / _NANOSECONDS)
        return self._waited

    def _find(self) -> str:
        """The child's folder in /proc, which may be that of an outer namespace, where the child has another id."""
        if not self._folder:
            self._folder = f"/proc/{int(_fields(f'/proc/self/fdinfo/{self._pidfd}')[b'Pid'])}"
        return self._folder


def resident_bytes() -> int:
    """This process's resident memory.

    Raises:
      OSError: if /proc cannot be read.
    """
    return int(_fields("/proc/self/status")[b"VmRSS"].split()[0]) << 10


def _fields(path: str) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in _read(path).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as handle:
        return handle.read()
