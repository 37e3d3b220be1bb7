"""A full disk: a clear error, no lost work, and a run that continues once there is space."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_toy import Squares, drive, executions, units, values

from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.schema import DataError, Program
from dreamprm_jax.storage import read_records, write_json, write_records


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skips if this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no small filesystem can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_files() -> Iterator[int]:
    """A limit on the size of files (RLIMIT_FSIZE), which needs no mount: writes beyond it fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(folder: Path, leave: int) -> Path:
    """Fills the file system up to ``leave`` free bytes."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    filler.write_bytes(b"x" * max(0, free.f_bavail * free.f_bsize - leave))
    return filler


def test_run_over_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """The journal fills the disk in the middle of a run."""
    factory = Squares(tmp_path / "log", pad=5000)
    with pytest.raises(
        DataError, match=r"toy\.journal: cannot be written \(No space left on device\); free some space"
    ):
        drive(small_disk, 100, factory, workers=2)
    done = len(values(small_disk / "toy.journal"))  # every line is complete
    assert 20 < done < 60
    assert sum(executions(tmp_path / "log").values()) <= done + 2 * 2 + 1
    with pytest.raises(DataError, match="No space left"):
        drive(small_disk, 100, factory, workers=2)
    assert len(values(small_disk / "toy.journal")) == done
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert drive(small_disk, 100, factory, workers=2).new == 100 - done
    assert values(small_disk / "toy.journal") == {key: [n * n, "x" * 5000] for key, n in units(100)}


def test_journal_removes_an_incomplete_line(small_disk: Path) -> None:
    """Only a part of the line fits on the disk."""
    filler = fill(small_disk, leave=8192)
    with Journal(small_disk / "j") as journal:
        journal.put("a", "x" * 3000)
        size = journal.path.stat().st_size
        with pytest.raises(DataError, match="No space left on device"):
            journal.put("b", "y" * 20_000)
        assert journal.path.stat().st_size == size
        assert "b" not in journal
        filler.unlink()
        assert journal.put("b", "y" * 20_000)
    with Journal(small_disk / "j") as journal:
        assert (journal.get("a"), journal.get("b"), journal.dropped) == ("x" * 3000, "y" * 20_000, 0)


def programs(count: int) -> list[Program]:
    return [Program.make("p", os.urandom(500).hex(), index, "x", {}) for index in range(count)]


def test_parquet_on_a_full_disk(small_disk: Path) -> None:
    """The existing file stays; no temporary file is left."""
    path = small_disk / "programs.parquet"
    first = programs(20)
    write_records(path, Program, first)
    with pytest.raises(DataError, match=r"programs\.parquet: cannot be written \(No space left on device\)"):
        write_records(path, Program, programs(2000))
    filler = fill(small_disk, leave=0)
    with pytest.raises(DataError, match=r"note\.json: cannot be written"):
        write_json(small_disk / "note.json", "x" * 9000)
    assert sorted(small_disk.iterdir()) == sorted([path, filler])
    assert read_records(path, Program) == first
    filler.unlink()
    assert write_records(path, Program, first + programs(20)) == 40


def test_file_size_limit(small_files: int, tmp_path: Path) -> None:
    """The same without a mount: writes beyond a file's size limit fail with EFBIG."""
    with Journal(tmp_path / "j") as journal:

        def put_many() -> None:
            for number in range(1000):
                journal.put(f"unit{number}", "x" * 700)

        with pytest.raises(DataError, match=r"j: cannot be written \(File too large\)"):
            put_many()
        done = len(journal)
        assert 100 < done < small_files / 700
        assert journal.path.stat().st_size <= small_files
    with pytest.raises(DataError, match="File too large"):
        write_records(tmp_path / "programs.parquet", Program, programs(2000))
    assert [path.name for path in tmp_path.iterdir()] == ["j"]
    with Journal(tmp_path / "j") as journal:
        assert (len(journal), journal.dropped) == (done, 0)
