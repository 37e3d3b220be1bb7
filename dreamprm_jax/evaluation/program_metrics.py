"""Metrics of a method's numbers: separation of passing and failing programs, and correlation with program length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import Method
from dreamprm_jax.metrics.statistics import percentile_interval
from dreamprm_jax.metrics.step_metrics import (
    auroc,
    auroc_replicates,
    expected_calibration_error,
    reliability_bins,
    spearman,
)
from dreamprm_jax.selection.aggregators import sigmoid

STEP_BOOTSTRAP = 2000
"""Maximum number of resamples for rank statistics. Each resample costs a pass over all steps or programs."""


def program_level(method: Method, candidates: Sequence[Candidates], samples: int, seed: int) -> dict[str, Any]:
    """Program-level metrics of one method.

    Returns:
      JSON-ready: ``outcome_auroc`` over all candidates, with its interval over problems; the mean AUROC within problems
      that have both passing and failing candidates, which determines selection; the mean rank correlation with length
      within problems (in the oracle's row, the correlation of passing with length, which an unbiased score should
      match); and the number of candidates without a score.
    """
    numbers, passed = np.concatenate(method.numbers), np.concatenate([one.passed for one in candidates]) > 0
    problem = np.repeat(np.arange(len(candidates)), [len(one.passed) for one in candidates])
    scored = ~np.isnan(numbers)
    numbers, passed, problem = numbers[scored], passed[scored], problem[scored]
    replicates = auroc_replicates(numbers, passed, problem, len(candidates), min(samples, STEP_BOOTSTRAP), seed)
    return {
        "method": method.key,
        "label": method.label,
        "outcome_auroc": asdict(percentile_interval(auroc(numbers, passed), replicates)),
        "outcome_auroc_within_problem": _within(method, candidates, lambda one: one.passed > 0, auroc),
        "length_correlation_steps": _within(method, candidates, _step_counts, spearman),
        "length_correlation_characters": _within(method, candidates, _characters, spearman),
        "without_score": int((~scored).sum()),
        **_outcome_calibration(method.key, candidates),
    }


def _outcome_calibration(arm: str, candidates: Sequence[Candidates]) -> dict[str, Any]:
    """Calibration of the last step's score as the probability of passing; no bins for methods that are not arms."""
    pairs = [
        (logits[-1], passed)
        for one in candidates
        for logits, passed in zip(one.logits.get(arm, ()), one.passed, strict=False)
        if logits.size
    ]
    logits, passed = np.array(pairs, dtype=float).reshape(-1, 2).T
    return {
        "outcome_reliability": [asdict(one) for one in reliability_bins(sigmoid(logits), passed)],
        "outcome_ece": expected_calibration_error(sigmoid(logits), passed),
    }


def _within(
    method: Method,
    candidates: Sequence[Candidates],
    quantity: Callable[[Candidates], np.ndarray],
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> float:
    """Mean of a statistic of (number, quantity) over the problems on which it is defined."""
    values = []
    for numbers, one in zip(method.numbers, candidates, strict=True):
        scored = ~np.isnan(numbers)
        values.append(statistic(numbers[scored], quantity(one)[scored]))
    defined = np.array(values)[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _step_counts(one: Candidates) -> np.ndarray:
    sizes = [[row.size for row in rows] for rows in one.logits.values()]
    return np.max([*sizes, [0] * len(one.programs)], axis=0)


def _characters(one: Candidates) -> np.ndarray:
    return np.array([len(program.code) for program in one.programs])
