"""Splits problems into train, meta and test windows: by contest date, or by hash for problems without dates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime

from dreamprm_jax.config import ProblemsConfig
from dreamprm_jax.schema import DataError, Problem, Skip, content_hash


def dated_window(config: ProblemsConfig) -> Callable[[Problem], str | None]:
    """Returns a function from a problem to "train" or "test" by its contest date, or None between the two.

    Raises:
      DataError: if a date is malformed or the windows overlap.
    """
    before = _date(config.train_before, "problems.train_before")
    start = _date(config.test_from, "problems.test_from")
    if before > start:
        raise DataError(
            f"problems.train_before {config.train_before} is after problems.test_from {config.test_from}: "
            "the windows would overlap"
        )

    def window_of(problem: Problem) -> str | None:
        date = _date(problem.contest_date, f"problem {problem.problem_id}, contest_date")
        return "train" if date < before else "test" if date >= start else None

    return window_of


def split_windows(problems: Sequence[Problem], config: ProblemsConfig) -> tuple[dict[str, list[Problem]], list[Skip]]:
    """Splits by contest date: ``contest_date < train_before`` and ``contest_date >= test_from``.

    The test problems are newer. The defaults are the paper's dates (arXiv 2512.15000: 2024-08-01 and 2025-02-01). Dates
    without a time mean midnight; time zones are ignored (the rows have none). ``meta_count`` problems of the training
    dates, drawn by a hash of their id, are moved from the train window to the meta window.

    Returns:
      The problems of "train", "meta" and "test", in the given order; and the problems between the two dates, which are
      in no window.

    Raises:
      DataError: if a date is malformed or the windows overlap.
    """
    window_of = dated_window(config)
    windows: dict[str, list[Problem]] = {"train": [], "meta": [], "test": []}
    between = []
    for problem in problems:
        window = window_of(problem)
        if window is None:
            between.append(Skip("problems", problem.problem_id, "between the train and the test window"))
        else:
            windows[window].append(problem)
    drawn = sorted(windows["train"], key=lambda problem: content_hash("meta", problem.problem_id))
    meta = {problem.problem_id for problem in drawn[: config.meta_count]}
    windows["meta"] = [problem for problem in windows["train"] if problem.problem_id in meta]
    windows["train"] = [problem for problem in windows["train"] if problem.problem_id not in meta]
    return windows, between


def hash_order(problem_id: str, seed: int) -> str:
    """Sort key of problems without dates: a random order that depends only on the id and the seed."""
    return content_hash("window", str(seed), problem_id)


def split_counts(problems: Sequence[Problem], config: ProblemsConfig, seed: int) -> dict[str, list[Problem]]:
    """Splits problems without dates by ``hash_order``: first the test window, then meta, then train.

    The sizes are ``test_count``, ``meta_count`` and ``train_count``. If there are fewer problems, the windows get
    proportional shares.
    """
    counts = {"test": config.test_count, "meta": config.meta_count, "train": config.train_count}
    wanted = sum(counts.values())
    if wanted > len(problems):
        counts = {window: count * len(problems) // wanted for window, count in counts.items()}
        counts["train"] = len(problems) - counts["test"] - counts["meta"]
    remaining = iter(sorted(problems, key=lambda problem: hash_order(problem.problem_id, seed)))
    windows = {window: list(itertools.islice(remaining, count)) for window, count in counts.items()}
    return {window: windows[window] for window in ("train", "meta", "test")}


def _date(text: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not an ISO 8601 date such as 2024-08-01") from error
