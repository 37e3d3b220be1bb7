"""Fixed corrections of Monte-Carlo step labels, without a model: smoothing, shrinkage, two rules.

Each is a function of arrays; ``methods`` applies them by name to the label stage's rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED
from dreamprm_jax.schema import DataError

SMOOTHING = 0.1  # as in the released DreamPRM-Code
STRENGTHS = np.array([0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0])


def smoothing(raw: Float[np.ndarray, " n"], amount: float = SMOOTHING) -> Float[np.ndarray, " n"]:
    """Label smoothing: (1 - amount) raw + amount / 2.

    Raises:
      DataError: if ``amount`` is not in [0, 1].
    """
    if not 0.0 <= amount <= 1.0:
        raise DataError(f"smoothing amount {amount}: must be in [0, 1]")
    return (1.0 - amount) * np.asarray(raw, float) + 0.5 * amount


def beta_shrink(passes: Int[np.ndarray, " n"], rollouts: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Posterior mean of each step's pass rate under a Beta(a, b) prior fitted to all steps (empirical Bayes).

    The prior's mean is the pooled pass rate; a + b maximizes the beta-binomial likelihood over STRENGTHS.

    Returns:
      (a + passes) / (a + b + rollouts), which is the pooled rate for steps without rollouts.

    Raises:
      DataError: if no step has a rollout, or counts are inconsistent.
    """
    passes, rollouts = np.asarray(passes), np.asarray(rollouts)
    if passes.shape != rollouts.shape or ((passes < 0) | (passes > rollouts)).any():
        raise DataError("passes must have the shape of rollouts and lie between 0 and rollouts")
    if rollouts.sum() == 0:
        raise DataError("beta_shrink: no step has a judged rollout; there is nothing to fit")
    mean = (passes.sum() + 0.5) / (rollouts.sum() + 1.0)
    # The beta-binomial as a product of factors, which is exact and fast for small counts.
    pairs, counts = np.unique(np.stack([passes, rollouts], axis=1), axis=0, return_counts=True)
    likelihood = np.zeros(len(STRENGTHS))
    for (k, m), count in zip(pairs, counts, strict=True):
        rising_a = np.log(mean * STRENGTHS[:, None] + np.arange(k)).sum(axis=1)
        rising_b = np.log((1.0 - mean) * STRENGTHS[:, None] + np.arange(m - k)).sum(axis=1)
        likelihood += count * (rising_a + rising_b - np.log(STRENGTHS[:, None] + np.arange(m)).sum(axis=1))
    strength = STRENGTHS[np.argmax(likelihood)]
    return (mean * strength + passes) / (strength + rollouts)


def closure(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
) -> Float[np.ndarray, " n"]:
    """1 if the program, a rollout of this step, or a rollout of a later step passed; otherwise 0.

    Args:
      passes, rollouts, program, outcome: As in ``fault_model.fault_em``; the last row of a program is the program
        itself, whose counts are ignored.

    Returns:
      0 or 1; NaN without evidence, that is, no rollout from this step on and an unknown outcome.
    """
    own = np.asarray(outcome)[program]
    passed, known = own == PASSED, (own == PASSED) | (own == FAILED)
    for row in range(len(program) - 2, -1, -1):
        if program[row] == program[row + 1]:
            passed[row] |= bool(passes[row]) or passed[row + 1]
            known[row] |= bool(rollouts[row]) or known[row + 1]
    return np.where(known, passed, np.nan)


SCAN_TOLERANCE = 2  # number of steps before the predicted error with soft labels


def scan(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
) -> Float[np.ndarray, " n"]:
    """The noise-tolerant labels of SCAN (arXiv 2509.16548), from counts instead of additional samples of the completer.

    All steps of a passed program are labeled 1. For other programs, the predicted error is the first step with rollouts
    of which none passed, or the last step if there is none. Labels are 0 from it on and 1 before it, except for the
    SCAN_TOLERANCE steps before it, whose label is the pass rate divided by the completer's confidence in the problem,
    at most 1. The confidence is the pass rate of the program's first step, or the pooled pass rate if no rollout of the
    first step passed.

    Args:
      passes, rollouts, program, outcome: As in ``closure``.

    Returns:
      Labels in [0, 1]; NaN for steps without rollouts among the SCAN_TOLERANCE steps before the predicted error.
    """
    passes, rollouts, program = np.asarray(passes), np.asarray(rollouts), np.asarray(program)
    labels = np.full(len(program), np.nan)
    pooled = passes.sum() / max(rollouts.sum(), 1)
    for one in np.unique(program):
        rows = np.flatnonzero(program == one)
        if outcome[one] == PASSED:
            labels[rows] = 1.0
            continue
        failing = np.flatnonzero((rollouts[rows] > 0) & (passes[rows] == 0))
        error = int(failing[0]) if len(failing) else len(rows) - 1
        first = passes[rows[0]] / rollouts[rows[0]] if rollouts[rows[0]] and passes[rows[0]] else pooled
        with np.errstate(invalid="ignore", divide="ignore"):
            soft = np.minimum(passes[rows] / rollouts[rows] / max(first, 1e-9), 1.0)
        labels[rows] = np.where(np.arange(len(rows)) >= error - SCAN_TOLERANCE, soft, 1.0)
        labels[rows[error:]] = 0.0
    return labels
