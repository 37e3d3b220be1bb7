"""Means over all size-k subsets of a problem's candidates, for selections that no closed form covers.

``best_of_n`` has the closed form for ranking by a number of each candidate. Where the choice depends on which other
candidates were drawn (a vote, an early stop), the subsets are enumerated; where they are too many, a seeded sample of
them stands for all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

LIMIT = 1000
"""Subsets that are enumerated; beyond, as many are drawn."""


def subsets(n: int, k: int, limit: int = LIMIT, seed: int = 0) -> Iterator[np.ndarray]:
    """All size-k subsets of 0..n-1 in order, or ``limit`` random ones where there are more.

    Yields:
      (k,) indices, ascending.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must be between 1 and the number of candidates, {n}")
    if math.comb(n, k) <= limit:
        for chosen in itertools.combinations(range(n), k):
            yield np.array(chosen)
        return
    rng = np.random.default_rng([seed, n, k])
    for _ in range(limit):
        yield np.sort(rng.choice(n, k, replace=False))


def mean_over_subsets(
    function: Callable[[np.ndarray], np.ndarray | float], n: int, k: int, limit: int = LIMIT, seed: int = 0
) -> np.ndarray:
    """Mean of ``function(indices)`` over the subsets: exact while there are at most ``limit`` of them."""
    total, count = np.zeros(()), 0
    for chosen in subsets(n, k, limit, seed):
        total = total + function(chosen)
        count += 1
    return np.asarray(total / count)
