"""Discrimination and calibration metrics of step scores. All metrics handle tied scores."""

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
    """Probability that a positive scores above a negative, with ties counted as one half (Mann-Whitney statistic).

    Args:
      scores: (M,).
      positive: (M,) bool.

    Returns:
      The AUROC, or NaN if one class is empty.
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
    """AUROC over resampled problems; steps of one problem are not independent, so they are drawn together.

    Let U[a, b] be the number of pairs in which a positive of problem a scores above a negative of problem b. A resample
    that draws problem p c[p] times has the AUROC c U c / (c n_positive)(c n_negative), so U is computed only once.

    Args:
      scores: (M,).
      positive: (M,) bool.
      problem: (M,) index of each step's problem, in [0, problems).
      problems: Number of problems.
      samples: Number of resamples, S.
      seed: Seed of the resampling; replicates of two scorers with the same seed are paired.

    Returns:
      (S,), NaN for resamples without one of the classes.
    """
    scores, positive, problem = np.asarray(scores), np.asarray(positive, dtype=bool), np.asarray(problem)
    order = np.argsort(scores[positive], kind="stable")
    positives, owner = scores[positive][order], problem[positive][order]
    won = np.empty((problems, problems))
    for other in range(problems):
        negatives = np.sort(scores[~positive & (problem == other)])
        below = (np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")) / 2.0
        won[:, other] = np.bincount(owner, below, minlength=problems)
    sizes = np.stack([np.bincount(problem[side], minlength=problems) for side in (positive, ~positive)], axis=1)
    replicates = []
    for counts in resampled_counts(problems, samples, seed):
        pairs = (counts @ sizes).prod(axis=1).astype(np.float64)
        wins = ((counts @ won) * counts).sum(axis=1)
        replicates.append(np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0))
    return np.concatenate(replicates)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve: the sum of precision times the increase in recall.

    Tied scores form one step of the curve.

    Returns:
      The average precision, or NaN without positives.
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
    """Mean squared error of probabilities against targets (0 or 1, or true probabilities). NaN without rows."""
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
    """Mean score and mean target in equal-width bins of the score, without empty bins.

    Args:
      scores: (M,) probabilities.
      target: (M,) 0 or 1, or true probabilities.
      bins: Number of bins over [0, 1].
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
    """Mean over rows of |mean score - mean target| of the row's bin (Guo et al., arXiv 1706.04599), or NaN."""
    filled = reliability_bins(scores, target, bins)
    total = sum(one.count for one in filled)
    return sum(one.count * abs(one.mean_score - one.mean_target) for one in filled) / total if total else float("nan")


def predicted_first_errors(step_scores: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Index of each program's first step that scores below the threshold, or -1."""
    return np.array([int(np.argmax(low)) if (low := row < threshold).any() else -1 for row in step_scores], dtype=int)


@dataclass(frozen=True)
class FirstErrorF1:
    """ProcessBench's F1 and its two accuracies."""

    f1: float
    accuracy_erroneous: float  # fraction of erroneous programs whose first wrong step is predicted exactly
    accuracy_correct: float  # fraction of correct programs without a predicted wrong step


def first_error_f1(predicted: np.ndarray, truth: np.ndarray) -> FirstErrorF1:
    """Harmonic mean of the accuracies on erroneous and on correct programs (ProcessBench, arXiv 2412.06559).

    Args:
      predicted: (N,) index of the first step predicted to be wrong, -1 for none.
      truth: (N,) index of the first wrong step, -1 for none.

    Returns:
      NaNs if there are no erroneous or no correct programs.
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
    """Spearman's rank correlation; NaN if one side is constant."""
    if len(first) < 2:
        return float("nan")
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
