"""Means over all size-k subsets of a problem's candidates, for selections that no closed form covers.

``best_of_n`` has the closed form for ranking by a number of each candidate. Where the choice depends on which other
candidates were drawn (a vote, an early stop), the subsets are enumerated; if there are too many, a seeded sample of
them stands for all.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

LIMIT = 1000
"""Subsets that are enumerated; if there are more, as many are drawn."""


@functools.lru_cache(maxsize=64)  # the same for every rule, and for every problem with n candidates
def subsets(n: int, k: int, limit: int = LIMIT, seed: int = 0) -> np.ndarray:
    """All size-k subsets of 0..n-1 in order, or ``limit`` random ones if there are more.

    Returns:
      (S, k) indices, ascending in each row. Read-only.

    Raises:
      ValueError: if k is not between 1 and n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must be between 1 and the number of candidates, {n}")
    if math.comb(n, k) <= limit:
        drawn = np.array(list(itertools.combinations(range(n), k)))
    else:
        rng = np.random.default_rng([seed, n, k])
        drawn = np.sort([rng.choice(n, k, replace=False) for _ in range(limit)], axis=1)
    drawn.flags.writeable = False
    return drawn


def mean_weights(drawn: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Mean probability over S subsets that each candidate is returned.

    Args:
      drawn: (S, k) indices of the candidates in each subset.
      weights: (S, k) probability that each is returned from that subset.
      n: number of candidates.

    Returns:
      (n,).
    """
    return np.bincount(drawn.ravel(), weights.ravel(), minlength=n) / len(drawn)
