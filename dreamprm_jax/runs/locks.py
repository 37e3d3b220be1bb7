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


def take_lock(descriptor: int, path: Path, wait: bool = False) -> None:
    """Acquires the exclusive lock of an open file.

    Args:
      descriptor: File descriptor of the open file.
      path: Name of the locked object, for errors.
      wait: Whether to wait if another process holds the lock.

    Raises:
      DataError: if another process holds the lock and ``wait`` is false, or if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _HELD:
            raise DataError(f"{path}: another process is working on it; wait for it or stop it") from error
        if os.environ.get(NO_LOCKS) != "1":
            raise DataError(
                f"{path}: the file system does not support locks ({error.strerror}); mount it with locks (Lustre: -o "
                f"flock), use a folder elsewhere, or set {NO_LOCKS}=1 and start one command at a time on this folder"
            ) from error


@contextlib.contextmanager
def locked(path: Path, owner: Path | None = None, wait: bool = False) -> Iterator[None]:
    """Holds the lock file ``path``. The file and its folder are created if necessary.

    Args:
      path: The lock file.
      owner: Name of the locked object, for errors; by default the lock file's folder.
      wait: As for ``take_lock``.

    Raises:
      DataError: as for ``take_lock``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        take_lock(handle.fileno(), owner or path.parent, wait)
        yield


def run_lock(root: Path) -> contextlib.AbstractContextManager[None]:
    """Creates a run's folder and holds its lock, so that two commands never write into it at once."""
    return locked(root / ".lock")
