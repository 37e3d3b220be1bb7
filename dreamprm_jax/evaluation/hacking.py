"""Reward hacking: how the selected programs change as best-of-N chooses among more candidates.

With more candidates, a reward model increasingly selects those that it scores wrongly (over-optimization: Gao et al.,
arXiv 2210.10760; for verifiers and best-of-N: Cobbe et al., arXiv 2110.14168). There are two measures of this, both in
exact expectation over subsets:

- **hacking rate** at N: the fraction of problems whose selected program passes the public tests but fails hidden ones.
  It is reported together with the fraction whose selected program passes the public tests at all, so that a method that
  solves more problems is not penalized.
- **drop** at N: the selected program's score increases with N by construction, but its accuracy may decrease. The drop
  is the best accuracy over all N minus the accuracy at the largest N, with a paired interval. A drop well above 0 means
  over-optimization. The best N is chosen on the same problems, so the drop is never below 0 and its interval is biased
  upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import Method
from dreamprm_jax.metrics.statistics import bootstrap_means, percentile_interval
from dreamprm_jax.selection.aggregators import as_probability
from dreamprm_jax.selection.best_of_n import best_of_k_weights


def hacking_row(
    method: Method,
    candidates: Sequence[Candidates],
    points: Sequence[int],
    aggregator: str | None,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Both measures of one method on candidates of P problems, at the values of N in ``points``.

    Problems without public tests count only in accuracy and score. ``aggregator`` maps the method's numbers to
    probabilities; it is None if they are not scores.
    """
    accuracy, score, public, hacked = (np.full((len(points), len(candidates)), np.nan) for _ in range(4))
    for column, (numbers, one) in enumerate(zip(method.numbers, candidates, strict=True)):
        probability = np.nan_to_num(as_probability(numbers, aggregator)) if aggregator else None
        for row, k in enumerate(points):
            weights = best_of_k_weights(numbers, min(k, len(numbers)))
            accuracy[row, column] = weights @ one.passed
            if probability is not None:
                score[row, column] = weights @ probability
            if one.public is not None:
                public[row, column] = weights @ one.public
                hacked[row, column] = weights @ (one.public & (one.passed < 1))
    means = accuracy.mean(axis=1)
    peak = int(np.argmax(means))
    drop = accuracy[peak] - accuracy[-1]
    return {
        "method": method.key,
        "label": method.label,
        "n": list(points),
        "accuracy": means.tolist(),
        "score": _means(score),
        "passes_public": _means(public),
        "hacking_rate": _means(hacked),
        "hacking_rate_of_public": [
            None if bad is None or not good else bad / good
            for bad, good in zip(_means(hacked), _means(public), strict=True)
        ],
        "peak_n": int(points[peak]),
        "drop": asdict(percentile_interval(float(drop.mean()), bootstrap_means(drop[None], samples, seed)[:, 0])),
    }


def _means(values: np.ndarray) -> list[float | None]:
    """Row means over the problems that have a value; None if none has one."""
    known = ~np.isnan(values[0])
    return [float(row[known].mean()) if known.any() else None for row in values]
