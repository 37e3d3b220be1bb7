"""Locks between processes: fairness, and different errors for held locks and for file systems without locks."""

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
    """An exclusive request waits for the earlier readers, precedes later requests, and holds the lock alone."""
    locks = [FairFileLock(tmp_path / "lock") for _ in range(4)]  # one for each of four processes
    events: list[str] = []
    both_inside, release = threading.Barrier(3, timeout=20), threading.Event()

    def early_reader(lock: FairFileLock) -> None:
        with lock.shared():
            both_inside.wait()
            release.wait(20)
            events.append("early")

    def writer() -> None:
        with locks[2].exclusive():
            events.append("writer begins")
            time.sleep(0.1)
            events.append("writer ends")

    def late_reader() -> None:
        with locks[3].shared():
            events.append("late")

    threads = [threading.Thread(target=early_reader, args=(lock,)) for lock in locks[:2]]
    for thread in threads:
        thread.start()
    both_inside.wait()
    for request in (writer, late_reader):
        threads.append(threading.Thread(target=request))
        threads[-1].start()
        time.sleep(0.2)
    assert events == []
    release.set()
    for thread in threads:
        thread.join(20)
    assert events == ["early", "early", "writer begins", "writer ends", "late"]
    for lock in locks:
        lock.close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks_module.fcntl, "flock", refuse)
    for acquire in (lambda: run_lock(tmp_path).__enter__(), lambda: Journal(tmp_path / "j")):
        with pytest.raises(DataError, match="does not support locks") as error:
            acquire()
        assert "another process" not in str(error.value)
    monkeypatch.setenv(NO_LOCKS, "1")
    with run_lock(tmp_path), Journal(tmp_path / "j") as journal:
        assert journal.put("a", 1)
