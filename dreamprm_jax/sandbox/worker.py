"""The judge's side of one worker: starts the interpreter, sends jobs, reads replies, and ends the interpreter."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import select
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.sandbox.control_group import ControlGroup
from dreamprm_jax.sandbox.inside.jobs import Reply, Request
from dreamprm_jax.sandbox.records import SandboxUnavailable
from dreamprm_jax.schema import DataError

_BOOTSTRAP = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from inside.forks import ignore_handlers
ignore_handlers()
from inside.zygote import main
sys.path.pop(0)
main()
"""
_START_SECONDS = 60.0
# third-party packages that programs may import by default, if they are installed
OFFERED_PACKAGES = ("numpy", "sortedcontainers")
_LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
# allowed entries of a library folder: shared libraries, architecture folders, and data of the C library
_LIBRARY_ENTRY = re.compile(r".*\.so(\.[\d.]+)?|.*-linux-(gnu|musl).*|gconv|locale")
_INSTALLED_PACKAGES = ("site-packages", "dist-packages")
_SYSTEM_PATHS = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Offer:
    """The packages and files that programs in a worker can read."""

    packages: dict[str, str]  # third-party package -> its folder or single file
    readable: tuple[str, ...]

    def versions(self) -> tuple[str, ...]:
        """The packages as ``name==version``, or with their folder if the version is unknown."""
        return tuple(f"{name}=={_version(name, folder)}" for name, folder in sorted(self.packages.items()))


def find_offer(names: Sequence[str] = OFFERED_PACKAGES) -> Offer:
    """The standard library and the offered packages of this interpreter.

    Raises:
      DataError: if a name is not the name of an installed package. Packages of ``OFFERED_PACKAGES`` may be missing.
    """
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    stdlib = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    packages: dict[str, str] = {}
    # entry by entry, because a landlock rule cannot exclude a part of a folder
    readable = [*_SYSTEM_PATHS]
    for library in dict.fromkeys(map(os.path.realpath, stdlib)):
        readable += _entries(library, lambda name: name not in _INSTALLED_PACKAGES)
    for library in dict.fromkeys(map(os.path.realpath, _LIBRARY_FOLDERS)):
        readable += _entries(library, lambda name: _LIBRARY_ENTRY.fullmatch(name) is not None)
    for name in names:
        if name in sys.stdlib_module_names:
            continue
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            if name in OFFERED_PACKAGES:
                continue
            raise DataError(
                f"sandbox.packages: {name!r} is not installed, or is not a package with an __init__.py; give import "
                "names, including those of the dependencies"
            )
        path = Path(spec.origin).resolve()
        if spec.submodule_search_locations:  # a single file shares its folder with all other packages
            path = path.parent
        packages[name] = str(path)
        readable += [str(path), f"{path}.libs"]
    return Offer(packages, tuple(dict.fromkeys(readable)))


@functools.cache
def _version(name: str, folder: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # the distribution and the package have different names
        for other in importlib.metadata.packages_distributions().get(name, ()):
            return f"{other} {importlib.metadata.version(other)}"
        return folder


def _entries(folder: str, wanted: Callable[[str], bool]) -> list[str]:
    """Paths of the wanted entries of a folder; none if it cannot be listed."""
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if wanted(name)]
    except OSError:
        return []


class Worker:
    """A running worker process (``inside.zygote``)."""

    def __init__(
        self,
        tier: str,
        offer: Offer,
        preload: tuple[str, ...] = (),
        hash_seed: int = 0,
        reports: bool = False,
        base: Path | None = None,
    ) -> None:
        """Starts the interpreter; ``hello`` waits until it is locked down and serves.

        Raises:
          OSError: if no process can be started.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {
            "control": theirs.fileno(),
            "namespaces": tier == "FULL",
            "lock": {"FULL": "require", "PORTABLE": "require", "EXTERNAL": "offer", "UNSAFE": "none"}[tier],
            "packages": offer.packages,
            "readable": offer.readable,
            "preload": preload,
            "reports": reports,
        }
        self._tier = tier
        self._hello: dict[str, Any] | None = None
        # not passed on the command line, which is limited in size and visible to programs
        with theirs, os.fdopen(os.memfd_create("settings"), "w+") as handle:
            json.dump(settings, handle)
            handle.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-c", _BOOTSTRAP, str(Path(__file__).parent)],
                stdin=handle,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**_ENVIRONMENT, "PYTHONHASHSEED": str(hash_seed)},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.group: ControlGroup | None = None
        if base is not None:
            with contextlib.suppress(OSError):
                group = ControlGroup(base)
                try:
                    group.add(self.pid)
                    self.group = group
                except OSError:
                    group.close()

    @property
    def pid(self) -> int:
        """Process id of the interpreter that was started."""
        return self._process.pid

    @property
    def started(self) -> bool:
        """Whether the worker has reported that it is ready."""
        return self._hello is not None

    def fileno(self) -> int:
        """Descriptor of the control socket, which is readable when a reply has arrived."""
        return self._socket.fileno()

    def hello(self) -> dict[str, Any]:
        """Waits until the worker is ready. Returns its report on the lockdown.

        Raises:
          SandboxUnavailable: if the lockdown of the tier failed; gives the reason.
        """
        if self._hello is None:
            readable, _, _ = select.select([self._socket], [], [], _START_SECONDS)
            data = self._socket.recv(1 << 16) if readable else b""
            answer = json.loads(data) if data else {"error": "the worker process ended or did not answer"}
            if "error" in answer:
                self.close()
                raise SandboxUnavailable(
                    f"sandbox tier {self._tier} does not hold on this machine: {answer['error']}. "
                    "Give the process the missing kernel feature, or choose a lower tier "
                    "(FULL > PORTABLE > EXTERNAL: only inside a container or VM that you trust > UNSAFE)."
                )
            self._hello = answer
        return self._hello

    def send(self, request: Request, descriptors: tuple[int, ...] = ()) -> None:
        """Sends a message.

        Raises:
          OSError: if the worker is gone.
        """
        socket.send_fds(self._socket, [request.pack()], descriptors)

    def receive(self) -> Reply | None:
        """The reply that has arrived; None if the worker is gone."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            return None
        return Reply.unpack(data) if data else None

    def close(self) -> None:
        """Ends the worker and its child, and waits until they are gone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        try:
            self._process.wait(timeout=2.0)  # it sees that the socket is closed, kills its child and exits
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        if self.group is not None:
            self.group.close()
