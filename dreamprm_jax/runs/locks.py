"""File locks between processes, for runs and journals. The kernel releases them when a process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dreamprm_jax.schema import DataError

NO_LOCKS = "DREAMPRM_NO_LOCKS"  # environment variable; "1" permits file systems without locks
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


def try_lock(descriptor: int, path: Path) -> None:
    """Acquires the exclusive lock of an open file without waiting.

    Raises:
      DataError: if another process holds it, or if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise DataError(f"{path}: another process is working on this run; wait for it or stop it") from error
        if os.environ.get(NO_LOCKS) != "1":
            raise DataError(
                f"{path}: the file system does not support locks ({error.strerror}); mount it with locks (Lustre: -o "
                f"flock), take a --workdir elsewhere, or set {NO_LOCKS}=1 and start one command at a time on this run"
            ) from error


@contextlib.contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """Creates a run's folder and holds its lock, so that two commands never write into it at once.

    Raises:
      DataError: as ``try_lock``.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as handle:
        try_lock(handle.fileno(), root)
        yield
