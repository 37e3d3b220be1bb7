"""Allocation strategies of Monte-Carlo rollouts, as generators of rounds.

A round is a list of (step, number of rollouts). A strategy reads the updated counts before it yields the next round,
and stops when no further rollouts are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.correction.change_point import outcome_code
from dreamprm_jax.labeling.correction.value_model import deviations
from dreamprm_jax.schema import DataError, Verdict

Round = list[tuple[int, int]]  # (step, rollouts)


class Counts(Protocol):
    """The counts of a step that a strategy reads."""

    asked: int
    passes: int
    failures: int


def check_strategy(settings: LabelConfig) -> None:
    """Checks the settings of a strategy. ``stages.validation`` also checks the limits of each setting alone.

    Raises:
      DataError: if they are out of range or inconsistent, naming the field.
    """
    batch, most = settings.min_rollouts, settings.max_rollouts
    for name in ("rollouts", "min_rollouts"):  # with 0, an adaptive allocation would never end
        if getattr(settings, name) < 1:
            raise DataError(f"config.label.{name}={getattr(settings, name)}: must be at least 1")
    if not 0.0 < settings.judge_share <= 1.0:
        limit = "at most 1" if settings.judge_share > 1.0 else "above 0"
        raise DataError(f"config.label.judge_share={settings.judge_share}: must be {limit}")
    if settings.strategy == "adaptive" and batch > min(settings.rollouts, most):
        raise DataError(
            f"config.label.min_rollouts={batch}: must be at most rollouts={settings.rollouts} and max_rollouts={most}"
        )
    if settings.strategy != "fixed" and settings.judge_share < 1.0:
        raise DataError(
            f"config.label.judge_share={settings.judge_share}: must be 1 with label.strategy={settings.strategy!r}, "
            "which reads every verdict; only 'fixed' can leave some out"
        )


def rounds(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Iterator[Round]:
    """The rounds of ``settings.strategy``.

    Args:
      settings: Strategy and budget.
      counts: Counts of every step that can be rolled out, updated by the caller between rounds.
      verdict: Verdict of the program itself.
    """
    if settings.strategy == "adaptive":
        return _adaptive(settings, counts, verdict)
    if settings.strategy == "binary_search":
        return _binary_search(settings, counts, verdict)
    return iter([[(step, settings.rollouts) for step in range(len(counts))]] if counts else [])


def deviation(passes: int, failures: int, alpha: float, beta: float) -> float:
    """Standard deviation of the Beta posterior of a pass rate."""
    a, b = alpha + passes, beta + failures
    return math.sqrt(a * b / (a + b + 1.0)) / (a + b)


def _widths(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Sequence[float]:
    """Posterior standard deviation of each step's pass rate."""
    if settings.posterior == "beta":
        return [deviation(one.passes, one.failures, settings.prior_alpha, settings.prior_beta) for one in counts]
    passes = np.array([one.passes for one in counts], int)
    rollouts = passes + np.array([one.failures for one in counts], int)
    return list(deviations(passes, rollouts, outcome_code(verdict)))


def _adaptive(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Iterator[Round]:
    """``min_rollouts`` for every step, then batches for the steps with the widest posteriors.

    It ends when all steps are decided or have ``max_rollouts``, or when the budget is spent.

    The allocation depends on past passes, so the fraction of passes is no longer exactly unbiased. The likelihood,
    which the correctors use, is unaffected.
    """
    batch, most = settings.min_rollouts, settings.max_rollouts
    budget = settings.rollouts * len(counts)
    if counts:
        yield [(step, batch) for step in range(len(counts))]
    while True:
        spent = sum(one.asked for one in counts)
        widths = _widths(settings, counts, verdict)
        open_steps = [s for s, one in enumerate(counts) if widths[s] > settings.decided and one.asked < most]
        open_steps.sort(key=lambda step: -widths[step])
        planned: Round = []
        for step in open_steps[: max(1, len(counts) // 2)]:  # only half, since rollouts also inform later steps
            size = min(batch, most - counts[step].asked, budget - spent)
            if size > 0:
                planned.append((step, size))
                spent += size
        if not planned:
            return
        yield planned


def _binary_search(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Iterator[Round]:
    """OmegaPRM's binary search (arXiv 2406.06592, section 3.2) for the first fatal step of a failed program.

    A prefix with a passing rollout is recoverable, and so are all shorter prefixes. A prefix without one counts as
    unrecoverable, and so do all longer prefixes. A passed program needs no search.
    """
    if verdict is Verdict.AC:
        return
    low, high = 0, len(counts)  # the first fatal step is in low..high; len(counts) is the program's last step
    while low < high:
        middle = (low + high) // 2
        yield [(middle, settings.rollouts)]
        if counts[middle].passes:
            low = middle + 1
        else:
            high = middle
