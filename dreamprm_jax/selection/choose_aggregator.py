"""Chooses the aggregator on candidates that are not the ones it is then used on.

Picked on the same problems, the best of eight aggregators looks better than it is. So it is picked on other problems:
the meta window's, where that has several scored candidates a problem (``automatic``), or the test window's other folds
(``cross_fitted``: what choosing on labelled problems of the same kind would give).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_PROBLEMS = 20
"""Problems with both passing and failing candidates below which nothing is chosen: the choice would be noise."""


@dataclass(frozen=True)
class Choice:
    """Which aggregator, and why."""

    name: str
    reason: str
    accuracies: Mapping[str, float]  # of each aggregator where it was chosen; empty where it was not


def automatic(
    accuracies: Mapping[str, np.ndarray] | None, mixed: int, default: str, where: str, missing: str = ""
) -> Choice:
    """The aggregator with the highest mean accuracy; ties go to the default, then to the order of the mapping.

    Args:
      accuracies: aggregator -> (P,) best-of-N accuracy on each held-out problem, mean over the reward models; None
        where there is nothing to choose on.
      mixed: how many of those problems have both passing and failing candidates.
      default: kept where there is too little to choose on.
      where: names the held-out candidates.
      missing: why there are none.
    """
    if accuracies is None or mixed < MIN_PROBLEMS:
        reason = missing or f"{where}: {mixed} problems with passing and failing candidates, {MIN_PROBLEMS} are needed"
        return Choice(default, f"{default} kept, nothing to choose on ({reason})", {})
    means = {name: float(np.mean(values)) for name, values in accuracies.items()}
    best = max(means.values())
    ties = [name for name, value in means.items() if value >= best - 1e-12]
    name = default if default in ties else ties[0]
    return Choice(name, f"chosen on {where}, {mixed} with passing and failing candidates", means)


def cross_fitted(accuracies: Sequence[np.ndarray], folds: int = 5, repeats: int = 20, seed: int = 0) -> np.ndarray:
    """Accuracy on each problem under the aggregator that is best on the other folds.

    Args:
      accuracies: (P,) of each aggregator.
      folds: parts of the problems.
      repeats: random partitions that are averaged.
      seed: of the partitions.

    Returns:
      (P,); their mean is what choosing on other problems is worth.
    """
    values = np.stack(accuracies)
    problems = values.shape[1]
    if problems < folds:
        return np.full(problems, np.nan)
    rng = np.random.default_rng(seed)
    total = np.zeros(problems)
    for _ in range(repeats):
        fold = rng.permutation(problems) % folds
        for part in range(folds):
            best = int(np.argmax(values[:, fold != part].mean(axis=1)))
            total[fold == part] += values[best, fold == part]
    return total / repeats
