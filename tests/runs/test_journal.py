"""The journal keeps finished units despite incomplete lines, damage and killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.schema import DataError


def test_values_survive_reopening_and_the_first_commit_wins(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        assert journal.put("a", {"x": [1, "é\ud800"]})
        assert not journal.put("a", {"x": 2})
    with Journal(tmp_path / "j") as journal:
        assert journal.get("a") == {"x": [1, "é\ud800"]}
        assert journal.get("b") is None
        assert len(journal) == 1


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_incomplete_last_line_is_removed(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.put("a", 1)
        journal.put("b", 2)
    size = (tmp_path / "j").stat().st_size
    os.truncate(tmp_path / "j", size - cut)
    with Journal(tmp_path / "j") as journal:
        assert (len(journal), journal.get("a"), journal.dropped) == (1, 1, 1)
        assert journal.put("b", 3)
    with Journal(tmp_path / "j") as journal:
        assert (journal.get("a"), journal.get("b"), journal.dropped) == (1, 3, 0)


def test_a_damaged_line_costs_its_own_unit_only(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        for key in "abc":
            journal.put(key, key * 3)
    data = (tmp_path / "j").read_bytes().replace(b"bbb", b"bxb")
    (tmp_path / "j").write_bytes(data)
    with Journal(tmp_path / "j") as journal:
        assert [journal.get(key) for key in "abc"] == ["aaa", None, "ccc"]
        assert journal.dropped == 1


def test_two_processes_cannot_own_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(DataError, match="another process"):
        Journal(tmp_path / "j")


def test_kill_9_leaves_every_acknowledged_unit(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dreamprm_jax.runs.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]))\n"
        "for i in range(10**9):\n"
        "    j.put(str(i), i * i); print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "j")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split(b"\n")[:-1] if line]
    with Journal(tmp_path / "j") as journal:
        assert acknowledged
        assert all(journal.get(str(i)) == i * i for i in acknowledged)
