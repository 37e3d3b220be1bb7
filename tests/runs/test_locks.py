"""Locks between processes: fair, and with an error that tells held locks from file systems without locks."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from dreamprm_jax.runs import locks as locks_module
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.locks import NO_LOCKS, FairFileLock, run_lock
from dreamprm_jax.schema import DataError


def test_fair_lock(tmp_path: Path) -> None:
    """Many hold it shared; an exclusive request waits for them, comes before later requests, and holds it alone."""
    locks = [FairFileLock(tmp_path / "lock") for _ in range(4)]  # as of four processes
    inside: list[str] = []
    together, leave = threading.Barrier(3, timeout=20), threading.Event()

    def join(lock: FairFileLock) -> None:
        with lock.shared():
            together.wait()
            leave.wait(20)
            inside.append("early")

    def alone() -> None:
        with locks[2].exclusive():
            inside.append("alone begins")
            time.sleep(0.1)
            inside.append("alone ends")

    def newcomer() -> None:
        with locks[3].shared():
            inside.append("late")

    threads = [threading.Thread(target=join, args=(lock,)) for lock in locks[:2]]
    for thread in threads:
        thread.start()
    together.wait()
    for late in (alone, newcomer):
        threads.append(threading.Thread(target=late))
        threads[-1].start()
        time.sleep(0.2)
    assert inside == []
    leave.set()
    for thread in threads:
        thread.join(20)
    assert inside == ["early", "early", "alone begins", "alone ends", "late"]
    for lock in locks:
        lock.close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks_module.fcntl, "flock", refuse)
    for opened in (lambda: run_lock(tmp_path).__enter__(), lambda: Journal(tmp_path / "j")):
        with pytest.raises(DataError, match="does not support locks") as error:
            opened()
        assert "another process" not in str(error.value)
    monkeypatch.setenv(NO_LOCKS, "1")
    with run_lock(tmp_path), Journal(tmp_path / "j") as journal:
        assert journal.put("a", 1)
