"""Locks between processes: different errors for held locks and for file systems without locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dreamprm_jax.runs import locks as locks_module
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.locks import NO_LOCKS, run_lock
from dreamprm_jax.schema import DataError


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
