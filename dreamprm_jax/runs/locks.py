"""File locks between processes: of a run, of a journal, and of a machine's cores; freed when their holder ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dreamprm_jax.schema import DataError

NO_LOCKS = "DREAMPRM_NO_LOCKS"  # environment variable: "1" runs without locks on a file system that has none
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def try_lock(descriptor: int, path: Path) -> None:
    """Takes the exclusive lock of an open file, or fails at once.

    Raises:
      DataError: when another process holds it; when the file system has no locks.
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
    """Holds a run's folder, which is created, so that two commands never write into it at once.

    Raises:
      DataError: as ``try_lock``.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as handle:
        try_lock(handle.fileno(), root)
        yield


class FairFileLock:
    """A lock that many processes may hold shared, or one exclusively. Exclusive requests are not starved.

    Every request takes the lock ``.queue`` first; an exclusive one keeps it while it waits, so that later ones queue.
    """

    def __init__(self, path: Path) -> None:
        """Creates ``path`` with the endings ``.queue`` and ``.held`` where they are missing."""
        self._queue = os.open(f"{path}.queue", _OPEN, 0o600)
        self._held = os.open(f"{path}.held", _OPEN, 0o600)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """No process holds it exclusively meanwhile."""
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._held, fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._held, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other process holds it meanwhile."""
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._held, fcntl.LOCK_UN)
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the files."""
        os.close(self._queue)
        os.close(self._held)
