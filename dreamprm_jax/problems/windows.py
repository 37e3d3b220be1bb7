"""Contest-date windows: train before one date, test from another, so that no test problem was there to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dreamprm_jax.config import ProblemsConfig
from dreamprm_jax.schema import DataError, Problem, Skip, content_hash


def split_windows(problems: Sequence[Problem], config: ProblemsConfig) -> tuple[dict[str, list[Problem]], list[Skip]]:
    """Splits by contest date: ``contest_date < train_before`` and ``contest_date >= test_from``.

    The paper's dates are the defaults (arXiv 2512.15000: 2024-08-01 and 2025-02-01). Dates without a time are at
    midnight; time zones are not compared (the rows carry none). ``meta_count`` problems of the training dates, drawn
    by the hash of their id, form the meta window; they leave the train window.

    Returns:
      The problems of "train", "meta" and "test", in their order; and the problems between the two dates, which belong
      to no window.

    Raises:
      DataError: when a date is malformed or the windows overlap.
    """
    before = _date(config.train_before, "problems.train_before")
    start = _date(config.test_from, "problems.test_from")
    if before > start:
        raise DataError(
            f"problems.train_before {config.train_before} is after problems.test_from {config.test_from}: "
            "the windows would overlap"
        )
    windows: dict[str, list[Problem]] = {"train": [], "meta": [], "test": []}
    between = []
    for problem in problems:
        date = _date(problem.contest_date, f"problem {problem.problem_id}, contest_date")
        if date < before:
            windows["train"].append(problem)
        elif date >= start:
            windows["test"].append(problem)
        else:
            between.append(Skip("problems", problem.problem_id, "between the train and the test window"))
    drawn = sorted(windows["train"], key=lambda problem: content_hash("meta", problem.problem_id))
    meta = {problem.problem_id for problem in drawn[: config.meta_count]}
    windows["meta"] = [problem for problem in windows["train"] if problem.problem_id in meta]
    windows["train"] = [problem for problem in windows["train"] if problem.problem_id not in meta]
    return windows, between


def _date(text: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not an ISO 8601 date such as 2024-08-01") from error
