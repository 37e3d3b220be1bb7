"""Where the next rollouts go: the strategies of Monte-Carlo estimation, as generators over rounds.

A strategy yields rounds, each a list of (step, how many rollouts), and looks at the counts so far before it yields the
next. It ends when it wants no more.
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
    """What a strategy sees of a step."""

    asked: int
    passes: int
    failures: int


def rounds(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Iterator[Round]:
    """The rounds of ``settings.strategy``.

    Args:
      settings: strategy and budget.
      counts: of every step that can be rolled out; kept up to date by the caller.
      verdict: of the program itself.

    Raises:
      DataError: on settings that contradict each other.
    """
    if settings.rollouts < 1:
        raise DataError(f"config.label.rollouts={settings.rollouts} must be 1 or more")
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
    """``min_rollouts`` everywhere; then, batch by batch, where the posterior is widest, until all are decided.

    Which step gets the next batch depends on past passes, so a step's share of passes is no longer exactly unbiased
    (its likelihood, which the correctors use, is what it always was).
    """
    batch, most = settings.min_rollouts, settings.max_rollouts
    if not 1 <= batch <= min(settings.rollouts, most):
        raise DataError(
            f"config.label: min_rollouts={batch} must be at least 1, and at most rollouts={settings.rollouts} and "
            f"max_rollouts={most}"
        )
    budget = settings.rollouts * len(counts)
    if counts:
        yield [(step, batch) for step in range(len(counts))]
    while True:
        spent = sum(one.asked for one in counts)
        widths = _widths(settings, counts, verdict)
        open_steps = [s for s, one in enumerate(counts) if widths[s] > settings.decided and one.asked < most]
        open_steps.sort(key=lambda step: -widths[step])
        planned: Round = []
        for step in open_steps[: max(1, len(counts) // 2)]:  # then look again: rollouts inform later steps too
            size = min(batch, most - counts[step].asked, budget - spent)
            if size > 0:
                planned.append((step, size))
                spent += size
        if not planned:
            return
        yield planned


def _binary_search(settings: LabelConfig, counts: Sequence[Counts], verdict: Verdict) -> Iterator[Round]:
    """OmegaPRM's search (arXiv 2406.06592, section 3.2) for the first step of a failed program that loses everything.

    A prefix with a passing rollout can be saved, and so can every shorter one; without one it counts as lost, and so
    does every longer one. A passed program has nothing to look for.
    """
    if verdict is Verdict.AC:
        return
    low, high = 0, len(counts)  # the first fatal step is one of low..high; high = the last step, whose fate is known
    while low < high:
        middle = (low + high) // 2
        yield [(middle, settings.rollouts)]
        if counts[middle].passes:
            low = middle + 1
        else:
            high = middle
