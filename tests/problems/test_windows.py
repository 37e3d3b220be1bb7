"""Contest-date windows: the boundaries, the meta window, and what lies between."""

from __future__ import annotations

import pytest

from dreamprm_jax.config import ProblemsConfig
from dreamprm_jax.problems.windows import split_windows
from dreamprm_jax.schema import DataError, Problem


def problem(number: int, date: str) -> Problem:
    return Problem(f"p{number}", "", "", "atcoder", "c", date, "easy")


DATES = [
    "2023-05-01T00:00:00",
    "2024-07-31T23:59:59",
    "2024-08-01T00:00:00",
    "2025-01-31T12:00:00",
    "2025-02-01T00:00:00",
    "2025-02-01",
    "2024-07-31",
]
PROBLEMS = [problem(number, date) for number, date in enumerate(DATES)]


def test_boundaries():
    windows, between = split_windows(PROBLEMS, ProblemsConfig(meta_count=0))
    assert {name: [p.problem_id for p in rows] for name, rows in windows.items()} == {
        "train": ["p0", "p1", "p6"],
        "meta": [],
        "test": ["p4", "p5"],
    }
    assert [skip.row for skip in between] == ["p2", "p3"]


def test_the_meta_window_is_drawn_from_the_training_dates_whatever_the_order():
    problems = [problem(number, "2024-01-01T00:00:00") for number in range(50)]
    config = ProblemsConfig(meta_count=20)
    windows, _ = split_windows(problems, config)
    assert (len(windows["train"]), len(windows["meta"])) == (30, 20)
    assert {p.problem_id for p in windows["train"] + windows["meta"]} == {p.problem_id for p in problems}
    again, _ = split_windows(problems[::-1], config)
    assert again["meta"] == windows["meta"][::-1]


def test_bad_dates_are_named():
    with pytest.raises(DataError, match=r"problems\.test_from: 'soon'"):
        split_windows(PROBLEMS, ProblemsConfig(test_from="soon"))
    with pytest.raises(DataError, match="the windows would overlap"):
        split_windows(PROBLEMS, ProblemsConfig(train_before="2025-02-02"))
    with pytest.raises(DataError, match="problem p9, contest_date: 'x'"):
        split_windows([problem(9, "x")], ProblemsConfig())
