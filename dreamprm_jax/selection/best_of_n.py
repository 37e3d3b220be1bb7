"""Best-of-N: selects the candidate with the highest number, in exact expectation over ties and over subsets.

A selection is a vector of weights over a problem's candidates: the probability that each is returned. Its accuracy is
the weighted mean of the candidates' outcomes. Ties are broken uniformly at random, which the weights express exactly;
therefore constant numbers give random selection, and numbers equal to the outcomes give the oracle, whose best-of-k
accuracy is the unbiased pass@k.

A candidate without a number (NaN: the reward model could not score it) ranks below every candidate that has one, since
a deployed reranker would never return it. If no candidate has a number, the choice is uniform.
"""

from __future__ import annotations

import numpy as np


def subset_shares(members: np.ndarray, total: int, k: int) -> np.ndarray:
    """C(m, k) / C(total, k): the fraction of all size-k subsets that consist of m given candidates.

    Computed as a product of k ratios, so that no binomial coefficient overflows.

    Args:
      members: (G,) values of m, 0 <= m <= total.
      total: number of candidates.
      k: subset size, 1 <= k <= total.

    Returns:
      (G,) in [0, 1].
    """
    if not 1 <= k <= total:
        raise ValueError(f"k={k} must be between 1 and the number of candidates, {total}")
    members = np.asarray(members)
    if k == total:  # the usual case; the product of k ratios would be quadratic in the candidates
        return (members == total).astype(np.float64)
    drawn = np.arange(k)
    ratios = np.maximum(members[:, None] - drawn, 0) / (total - drawn)
    return np.prod(ratios, axis=1)


def best_of_k_weights(numbers: np.ndarray, k: int) -> np.ndarray:
    """The probability that each candidate is returned as the best of a random subset of size k.

    Averages over all C(n, k) subsets in closed form. If b candidates are strictly below a group of g tied candidates,
    the best of a subset is in that group with probability [C(b + g, k) - C(b, k)] / C(n, k), divided equally.

    Args:
      numbers: (n,) one per candidate, higher is better, NaN if it has none.
      k: subset size, 1 <= k <= n.

    Returns:
      (n,) weights that sum to one.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    level = np.unique(numbers, return_inverse=True)[1]
    _, group, sizes = np.unique(np.where(np.isnan(numbers), -1, level), return_inverse=True, return_counts=True)
    up_to = np.cumsum(sizes)
    total = len(numbers)
    share = subset_shares(up_to, total, k) - subset_shares(up_to - sizes, total, k)
    return (share / sizes)[group]


def best_of_k(numbers: np.ndarray, passed: np.ndarray, k: int) -> float:
    """Exact expected accuracy of best-of-k over all size-k subsets of the candidates, ties averaged.

    Args:
      numbers: (n,) one per candidate, higher is better, NaN if it has none.
      passed: (n,) outcomes, 0 or 1.
      k: subset size, 1 <= k <= n.
    """
    return float(best_of_k_weights(numbers, k) @ np.asarray(passed, dtype=np.float64))


def choose(numbers: np.ndarray) -> np.ndarray:
    """Indices of the candidates that best-of-N may return: more than one if they tie."""
    return np.flatnonzero(best_of_k_weights(numbers, len(numbers)) > 0)


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to ``limit``: the points of a best-of-N curve."""
    return [1 << exponent for exponent in range(limit.bit_length()) if (1 << exponent) <= limit]
