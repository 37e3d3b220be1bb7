"""Contest-date windows: the boundaries, the meta window, and problems between the windows."""

from __future__ import annotations

import pytest

from dreamprm_jax.config import ProblemsConfig
from dreamprm_jax.problems.windows import split_counts, split_windows
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


def test_windows_without_dates_are_drawn_by_hash():
    problems = [problem(number, "2025-01-01") for number in range(50)]
    config = ProblemsConfig(train_count=20, meta_count=10, test_count=5)
    windows = split_counts(problems, config, seed=0)
    names = {window: [p.problem_id for p in rows] for window, rows in windows.items()}
    assert {window: len(rows) for window, rows in names.items()} == {"train": 20, "meta": 10, "test": 5}
    assert len({name for rows in names.values() for name in rows}) == 35
    assert split_counts(problems[::-1], config, seed=0) == windows
    assert split_counts(problems, config, seed=1) != windows
    larger = split_counts(problems, ProblemsConfig(train_count=30, meta_count=10, test_count=5), seed=0)
    assert (larger["test"], larger["meta"], larger["train"][:20]) == (
        windows["test"],
        windows["meta"],
        windows["train"],
    )


def test_counts_are_shares_where_there_are_fewer_problems():
    problems = [problem(number, "2025-01-01") for number in range(50)]
    windows = split_counts(problems, ProblemsConfig(train_count=200, meta_count=100, test_count=100), seed=0)
    assert {window: len(rows) for window, rows in windows.items()} == {"train": 26, "meta": 12, "test": 12}
