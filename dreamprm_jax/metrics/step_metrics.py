"""How well step scores tell good steps from bad, and how well they are calibrated. Ties are handled everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.metrics.statistics import resampled_counts


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; tied values share their mean rank."""
    _, group, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2.0)[group]


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative, a tie counting one half (the Mann-Whitney statistic).

    Args:
      scores: (M,).
      positive: (M,) bool.

    Returns:
      NaN where one class is empty.
    """
    positive = np.asarray(positive, dtype=bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    statistic = ranks(scores)[positive].sum() - positives * (positives + 1) / 2.0
    return float(statistic / (positives * negatives))


def auroc_replicates(
    scores: np.ndarray, positive: np.ndarray, problem: np.ndarray, problems: int, samples: int, seed: int
) -> np.ndarray:
    """AUROC over resampled problems: steps of one problem are drawn together, as they are not independent.

    With U[a, b] the pairs that the positives of problem a win against the negatives of problem b, a resample that draws
    problem p c[p] times has the AUROC c U c / (c n_positive)(c n_negative): no step is visited again.

    Args:
      scores: (M,).
      positive: (M,) bool.
      problem: (M,) index of each step's problem, in [0, problems).
      problems: how many problems.
      samples: number of resamples, S.
      seed: the same seed pairs the replicates of two scorers.

    Returns:
      (S,), NaN where a resample lost one class.
    """
    scores, positive, problem = np.asarray(scores), np.asarray(positive, dtype=bool), np.asarray(problem)
    order = np.argsort(scores[positive], kind="stable")
    winners, owner = scores[positive][order], problem[positive][order]
    won = np.empty((problems, problems))
    for other in range(problems):
        losers = np.sort(scores[~positive & (problem == other)])
        beaten = (np.searchsorted(losers, winners, "left") + np.searchsorted(losers, winners, "right")) / 2.0
        won[:, other] = np.bincount(owner, beaten, minlength=problems)
    sizes = np.stack([np.bincount(problem[side], minlength=problems) for side in (positive, ~positive)], axis=1)
    replicates = []
    for counts in resampled_counts(problems, samples, seed):
        pairs = (counts @ sizes).prod(axis=1).astype(np.float64)
        wins = ((counts @ won) * counts).sum(axis=1)
        replicates.append(np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0))
    return np.concatenate(replicates)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve as the sum of precision times recall gained, tied scores entering at once.

    Returns:
      NaN where there is no positive.
    """
    positive = np.asarray(positive, dtype=bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ordered = np.asarray(scores)[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    found = np.cumsum(positive[order])[ends]
    return float(np.sum(np.diff(found, prepend=0) * found / (ends + 1)) / positive.sum())


def brier(scores: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error of probabilities against targets: 0 or 1, or true probabilities. NaN without rows."""
    return float(np.mean((np.asarray(scores) - np.asarray(target, dtype=np.float64)) ** 2)) if len(scores) else np.nan


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram."""

    low: float
    high: float
    count: int
    mean_score: float
    mean_target: float


def reliability_bins(scores: np.ndarray, target: np.ndarray, bins: int = 10) -> list[ReliabilityBin]:
    """Mean score and mean target in equal-width bins of the score; empty bins are left out.

    Args:
      scores: (M,) probabilities.
      target: (M,) 0 or 1, or true probabilities.
      bins: how many over [0, 1].
    """
    scores, target = np.asarray(scores, dtype=np.float64), np.asarray(target, dtype=np.float64)
    index = np.clip((scores * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(inside.sum()),
            mean_score=float(scores[inside].mean()),
            mean_target=float(target[inside].mean()),
        )
        for number in range(bins)
        if (inside := index == number).any()
    ]


def expected_calibration_error(scores: np.ndarray, target: np.ndarray, bins: int = 10) -> float:
    """Mean over rows of |mean score - mean target| of the row's bin (Guo et al., arXiv 1706.04599), NaN if none."""
    filled = reliability_bins(scores, target, bins)
    total = sum(one.count for one in filled)
    return sum(one.count * abs(one.mean_score - one.mean_target) for one in filled) / total if total else float("nan")


def predicted_first_errors(step_scores: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Index of each program's first step that scores below the threshold, -1 where none does."""
    return np.array([int(np.argmax(low)) if (low := row < threshold).any() else -1 for row in step_scores], dtype=int)


@dataclass(frozen=True)
class FirstErrorF1:
    """ProcessBench's figure and its two halves."""

    f1: float
    accuracy_erroneous: float  # share of erroneous programs whose first wrong step was named exactly
    accuracy_correct: float  # share of correct programs on which no step was called wrong


def first_error_f1(predicted: np.ndarray, truth: np.ndarray) -> FirstErrorF1:
    """Harmonic mean of the accuracies on erroneous and on correct programs (ProcessBench, arXiv 2412.06559).

    Args:
      predicted: (N,) index of the first step called wrong, -1 for none.
      truth: (N,) index of the first wrong step, -1 for none.

    Returns:
      NaN where one of the two kinds does not occur.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    wrong, right = truth >= 0, truth < 0
    if not wrong.any() or not right.any():
        return FirstErrorF1(float("nan"), float("nan"), float("nan"))
    erroneous = float((predicted[wrong] == truth[wrong]).mean())
    correct = float((predicted[right] == -1).mean())
    total = erroneous + correct
    return FirstErrorF1(2.0 * erroneous * correct / total if total else 0.0, erroneous, correct)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; NaN where one side is constant."""
    if len(first) < 2:
        return float("nan")
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
