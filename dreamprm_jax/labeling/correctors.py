"""Fixed corrections of Monte-Carlo step labels, without a model: raw, smoothing, Beta shrinkage, change-point EM.

Each is a function on arrays; ``correct`` applies one, by name, to the label stage's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.change_point import FAILED, PASSED, UNKNOWN, change_point_em
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, StepLabel

Corrector = Literal["raw", "smoothing", "beta_shrink", "em"]

SMOOTHING = 0.1  # of the released DreamPRM-Code
STRENGTHS = np.array([0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0])


def smoothing(raw: Float[np.ndarray, " n"], amount: float = SMOOTHING) -> Float[np.ndarray, " n"]:
    """Label smoothing: (1 - amount) raw + amount / 2.

    Raises:
      DataError: when ``amount`` is not in [0, 1].
    """
    if not 0.0 <= amount <= 1.0:
        raise DataError(f"smoothing amount {amount}: must be in [0, 1]")
    return (1.0 - amount) * np.asarray(raw, float) + 0.5 * amount


def beta_shrink(passes: Int[np.ndarray, " n"], rollouts: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Posterior mean of each step's pass rate under a Beta(a, b) prior fitted to all steps (empirical Bayes).

    The prior's mean is the pooled pass rate, a + b the best of STRENGTHS under the beta-binomial likelihood.

    Returns:
      (a + passes) / (a + b + rollouts): the pooled rate where there was no rollout.

    Raises:
      DataError: when no step has a rollout, or counts do not fit.
    """
    passes, rollouts = np.asarray(passes), np.asarray(rollouts)
    if passes.shape != rollouts.shape or ((passes < 0) | (passes > rollouts)).any():
        raise DataError("passes must have the shape of rollouts and lie between 0 and rollouts")
    if rollouts.sum() == 0:
        raise DataError("beta_shrink: no step has a judged rollout; there is nothing to fit")
    mean = (passes.sum() + 0.5) / (rollouts.sum() + 1.0)
    # log of the beta-binomial as products of factors: exact, and counts are small
    pairs, counts = np.unique(np.stack([passes, rollouts], axis=1), axis=0, return_counts=True)
    likelihood = np.zeros(len(STRENGTHS))
    for (k, m), count in zip(pairs, counts, strict=True):
        rising_a = np.log(mean * STRENGTHS[:, None] + np.arange(k)).sum(axis=1)
        rising_b = np.log((1.0 - mean) * STRENGTHS[:, None] + np.arange(m - k)).sum(axis=1)
        likelihood += count * (rising_a + rising_b - np.log(STRENGTHS[:, None] + np.arange(m)).sum(axis=1))
    strength = STRENGTHS[np.argmax(likelihood)]
    return (mean * strength + passes) / (strength + rollouts)


def em(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
    group: Int[np.ndarray, " programs"] | None = None,
) -> Float[np.ndarray, " n"]:
    """P(recoverable) of each step by the change-point EM; see ``change_point.change_point_em`` for the arguments."""
    return change_point_em(passes, rollouts, program, outcome, group).recoverable


def correct(
    method: Corrector, step_labels: Sequence[StepLabel], outcomes: Mapping[str, Outcome]
) -> list[CorrectedLabel]:
    """Applies one corrector to the label stage's rows.

    Args:
      method: name of the corrector.
      step_labels: rows in any order.
      outcomes: by program hash; a program without one, or whose verdict is no label, counts as unknown.

    Returns:
      One CorrectedLabel per row, in the order of ``step_labels``. A row without rollouts keeps raw = nan; only ``em``
      and ``beta_shrink`` can give it a corrected label.

    Raises:
      DataError: on an unknown method.
    """
    if method not in get_args(Corrector):
        raise DataError(f"corrector {method!r}: must be one of {', '.join(get_args(Corrector))}")
    raw = np.array([label.mean for label in step_labels])
    passes = np.array([label.passes for label in step_labels], int)
    rollouts = np.array([label.rollouts for label in step_labels], int)
    if method == "raw":
        values = raw
    elif method == "smoothing":
        values = smoothing(raw)
    elif method == "beta_shrink":
        values = beta_shrink(passes, rollouts)
    else:
        values = _em_rows(step_labels, outcomes, passes, rollouts)
    return [
        CorrectedLabel(label.problem_id, label.program_hash, label.step_index, label.mean, float(value), method)
        for label, value in zip(step_labels, values, strict=True)
    ]


def _em_rows(
    step_labels: Sequence[StepLabel],
    outcomes: Mapping[str, Outcome],
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The EM on rows of any order; pass rates are shared within a problem."""
    keys = [(label.problem_id, label.program_hash) for label in step_labels]
    order = np.array(sorted(range(len(keys)), key=lambda row: (keys[row], step_labels[row].step_index)), int)
    programs = sorted(set(keys))
    number = {key: index for index, key in enumerate(programs)}
    problems = {name: index for index, name in enumerate(sorted({problem for problem, _ in programs}))}

    def known(program_hash: str) -> int:
        outcome = outcomes.get(program_hash)
        if outcome is None or not outcome.verdict.is_label:
            return UNKNOWN
        return PASSED if outcome.passed else FAILED

    values = np.empty(len(keys))
    values[order] = em(
        passes[order],
        rollouts[order],
        np.array([number[keys[row]] for row in order], int),
        np.array([known(program_hash) for _, program_hash in programs], int),
        np.array([problems[problem] for problem, _ in programs], int),
    )
    return values
