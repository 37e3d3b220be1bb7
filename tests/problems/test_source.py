"""The problems of each window from every source that needs no network, and the problems that may be left out."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamprm_jax.config import Config, PolicyConfig, ProblemsConfig, SandboxConfig
from dreamprm_jax.problems import codeio_source
from dreamprm_jax.problems.codeio import Task
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.source import excluded_ids, load_windows
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages.validation import validate

NUMBERS = "def generate_inputs(rng):\n    return {'n': rng.randint(0, 99)}\n"


def config(**problems: object) -> Config:
    return Config(
        problems=dataclasses.replace(ProblemsConfig(), **problems),
        policy=PolicyConfig(kind="replay"),
        sandbox=SandboxConfig(workers=2),
    )


@pytest.fixture
def tasks(monkeypatch) -> list[Task]:
    """Twelve tasks: every third returns unrounded floats, and one returns a constant."""
    values = ["n + 1", "n * 2", "n / 7"] * 4
    values[0] = "5"
    found = [
        Task(f"codeio/{i:04d}", "Do.", "n", f"def main_solution(n):\n    return {v}\n", NUMBERS, 7)
        for i, v in enumerate(values)
    ]
    monkeypatch.setattr(codeio_source.codeio, "read_tasks", lambda: found)
    return found


def test_codeio(tasks, tmp_path, capsys):
    counts = {"train_count": 3, "meta_count": 2, "test_count": 1, "made_tests": 5}
    settings = config(source="codeio", **counts)
    windows, compositions = load_windows(settings, tmp_path / "tests.parquet", tmp_path)
    assert compositions == []
    assert {window: len(problems) for window, problems in windows.items()} == {"train": 3, "meta": 2, "test": 1}
    problems = [problem for window in windows.values() for problem in window]
    tests = HiddenTests(tmp_path / "tests.parquet")
    assert all(len(tests.all_of(problem)) == 5 for problem in problems)
    assert {problem.problem_id for problem in problems} <= {
        task.task_id for task in tasks if task.reference[-5:] != "/ 7\n" and "return 5" not in task.reference
    }
    assert (tmp_path / "codeio_tests.journal").stat().st_size > 0
    assert load_windows(settings, tmp_path / "tests.parquet", tmp_path) == (windows, [])
    shown = capsys.readouterr().out
    assert "codeio: 6 problems; windows drawn by hash: train 3, meta 2, test 1" in shown
    assert "an output contains unrounded floats" in shown or "fewer than 3 different outputs" in shown
    with pytest.raises(DataError, match=r"config\.problems\.made_tests=2: must be at least 3"):
        validate(config(source="codeio", made_tests=2))


def test_codeio_with_more_wanted_than_there_are(tasks, tmp_path, capsys):
    windows, _ = load_windows(config(source="codeio", made_tests=5), tmp_path / "tests.parquet")
    assert sum(map(len, windows.values())) == 7
    assert "5 of 12 problems left out" in capsys.readouterr().out
    assert {p.problem_id for window in windows.values() for p in window} == {
        task.task_id for task in tasks if "return 5" not in task.reference and "/ 7" not in task.reference
    }


def test_excluded_problems(tasks, tmp_path):
    pq.write_table(pa.table({"problem_id": ["codeio/0001", "codeio/0003"]}), tmp_path / "problems.parquet")
    (tmp_path / "ids.txt").write_text("codeio/0001\ncodeio/0003\n")
    for path in (tmp_path, tmp_path / "problems.parquet", tmp_path / "ids.txt"):
        assert excluded_ids(str(path)) == {"codeio/0001", "codeio/0003"}
    windows, _ = load_windows(config(source="codeio", made_tests=5, exclude=str(tmp_path)), tmp_path / "tests.parquet")
    found = {problem.problem_id for window in windows.values() for problem in window}
    assert len(found) == 5
    assert not found & {"codeio/0001", "codeio/0003"}
    assert excluded_ids("") == frozenset()
    (tmp_path / "empty.txt").write_text("")
    for name in ("none.txt", "none.parquet", "empty.txt"):
        with pytest.raises(DataError, match=r"problems\.exclude"):
            excluded_ids(str(tmp_path / name))


def test_an_empty_window_is_named(tmp_path):
    settings = config(source="procedural", train_count=1, meta_count=1, test_count=0)
    with pytest.raises(DataError, match=r"test_count.*change the dates or counts"):
        load_windows(settings, tmp_path / "tests.parquet")
