"""The study's metrics of labels and reward models, computed with the exact truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from dreamprm_jax.labeling.correction.calibrator import fit_calibrator
from dreamprm_jax.metrics.step_metrics import (
    auroc,
    brier,
    expected_calibration_error,
    first_error_f1,
    predicted_first_errors,
)
from dreamprm_jax.selection.aggregators import aggregate, sigmoid
from research.study.world import Known

AGGREGATED = ("last", "mean", "min", "product", "sum_log_odds", "mean_log_odds")
THRESHOLDS = np.linspace(0.05, 0.95, 37)
Figures = dict[str, float]


def label_measures(
    labels: Float[np.ndarray, " n"], recoverable: Bool[np.ndarray, " n"], value: Float[np.ndarray, " n"]
) -> Figures:
    """Metrics of labels for both targets: recoverability, and V, the pass probability of the policy's completions."""
    return {
        "label_auroc": auroc(labels, recoverable),
        "label_brier": brier(labels, recoverable),
        "label_ece": expected_calibration_error(labels, recoverable),
        "label_brier_value": brier(labels, value),
    }


def model_measures(
    logits: Sequence[Float[np.ndarray, " steps"]],
    programs: Sequence[Known],
    meta_logits: Sequence[Float[np.ndarray, " steps"]],
    meta_programs: Sequence[Known],
) -> Figures:
    """Metrics of a reward model on the test programs, in which programs of one problem must be adjacent.

    Returns:
      ``step_auroc`` (recoverable prefixes, all steps of all programs), ``step_brier``, ``step_ece``,
      ``step_brier_value``, ``outcome_auroc``, and ``first_error_f1`` (with the best threshold on the meta programs).
      ``best_of_n_AGGREGATOR``: fraction of problems whose best-scored program passes (ties are averaged).
      ``best_of_n_learned``: the same with a logistic regression of the outcome on ``program_features``, fitted to the
      meta programs (whose outcomes were also used in training).
    """
    scores = [sigmoid(row) for row in logits]
    flat = np.concatenate(scores)
    recoverable = np.concatenate([one.recoverable for one in programs])
    value = np.concatenate([one.value for one in programs])
    passed = np.array([one.passed for one in programs])
    figures = {
        "step_auroc": auroc(np.concatenate(logits), recoverable),
        "step_brier": brier(flat, recoverable),
        "step_ece": expected_calibration_error(flat, recoverable),
        "step_brier_value": brier(flat, value),
        "outcome_auroc": auroc(np.array([row[-1] for row in logits]), passed),
        "first_error_f1": _f1(scores, programs, _best_threshold([sigmoid(row) for row in meta_logits], meta_programs)),
    }
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(programs):
        groups.setdefault(one.program.problem_id, []).append(index)
    meta_passed = np.array([float(one.passed) for one in meta_programs])
    learned = fit_calibrator(program_features(meta_logits), meta_passed, ridge=10.0)(program_features(logits))
    for name, totals in [*((name, aggregate(logits, name)) for name in AGGREGATED), ("learned", learned)]:
        chosen = []
        for group in groups.values():
            best = totals[group] == totals[group].max()
            chosen.append(passed[group][best].mean())
        figures[f"best_of_n_{name}"] = float(np.mean(chosen))
    return figures


def program_features(logits: Sequence[Float[np.ndarray, " steps"]]) -> Float[np.ndarray, "n 6"]:
    """Features of each program's step logits: last, sum, minimum, mean, sum of their sigmoids, and number."""
    return np.array([(r[-1], r.sum(), r.min(), r.mean(), sigmoid(r).sum(), len(r)) for r in logits], float)


def program_measures(programs: Sequence[Known]) -> Figures:
    """Accuracies that do not depend on a reward model: of a random choice, and of the best possible choice."""
    groups: dict[str, list[bool]] = {}
    for one in programs:
        groups.setdefault(one.program.problem_id, []).append(one.passed)
    return {
        "random": float(np.mean([np.mean(group) for group in groups.values()])),
        "oracle": float(np.mean([any(group) for group in groups.values()])),
    }


def _f1(scores: Sequence[Float[np.ndarray, " steps"]], programs: Sequence[Known], threshold: float) -> float:
    truth = np.array([one.first_fatal for one in programs])
    return first_error_f1(predicted_first_errors(scores, threshold), truth).f1


def _best_threshold(scores: Sequence[Float[np.ndarray, " steps"]], programs: Sequence[Known]) -> float:
    return float(max(THRESHOLDS, key=lambda threshold: _f1(scores, programs, threshold)))
