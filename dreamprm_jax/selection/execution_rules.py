"""Selection rules that run programs: public-test filter, votes of execution clusters, prune-then-execute.

A rule maps S subsets of a problem's candidates to the probability that each drawn candidate is returned; ties are
averaged. No rule reads a hidden test. The filter and prune-then-execute compare outputs with the expected outputs of
the public tests. A vote groups programs by their outputs (AlphaCode, arXiv 2203.07814; MBR-exec, arXiv 2204.11454), so
it needs no expected output.

``best_of_n`` has a closed form because the number of a candidate does not depend on the other candidates. Here the
choice depends on which others were drawn, so the subsets are enumerated; if there are too many, they are sampled.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

Rule = Callable[[np.ndarray], np.ndarray]
"""Indices (S, k) of the candidates in each subset -> weights (S, k); each row sums to one."""


def levels(numbers: np.ndarray) -> np.ndarray:
    """(n,) int dense ranks: 1 for the lowest number; equal numbers share a rank; 0 for NaN (no score)."""
    numbers = np.asarray(numbers, dtype=np.float64)
    known = ~np.isnan(numbers)
    result = np.zeros(len(numbers), dtype=int)
    result[known] = np.unique(numbers[known], return_inverse=True)[1] + 1
    return result


def filter_numbers(numbers: np.ndarray, passes_public: np.ndarray) -> np.ndarray:
    """Ranks by a public-test filter, then by ``numbers``: candidates that pass the public tests rank above all others.

    Args:
      numbers: (n,) higher is better; NaN (no score) is the lowest of its group, as in best-of-N.
      passes_public: (n,) bool.

    Returns:
      (n,) ranks as floats, of which only the order matters.
    """
    return levels(numbers) + np.asarray(passes_public, dtype=bool) * (len(numbers) + 1.0)


def vote_rule(
    clusters: np.ndarray,
    weights: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
    eligible: np.ndarray | None = None,
) -> Rule:
    """Returns a member of the cluster with the largest total weight: the one with the highest number, or a random one.

    Args:
      clusters: (n,) cluster of each candidate; -1 if it failed to run. Failed candidates win only if all failed.
      weights: (n,) votes of each candidate, at least 0; NaN counts as 0. None: one vote each.
      numbers: (n,) rank the members of the winning cluster. None: uniform choice.
      eligible: (n,) bool, a public-test filter before the vote; if no drawn candidate passes it, all vote.
    """
    count = len(clusters)
    votes = np.ones(count) if weights is None else np.nan_to_num(np.asarray(weights, dtype=np.float64))
    ran, may = clusters >= 0, np.ones(count, dtype=bool) if eligible is None else eligible
    order = np.zeros(count, dtype=int) if numbers is None else levels(numbers)
    bins = int(clusters.max()) + 2  # cluster -1 is bin 0

    def rule(drawn: np.ndarray) -> np.ndarray:
        # The voters: the last of these groups that is not empty, or all drawn candidates.
        allowed = np.ones(drawn.shape, dtype=bool)
        for group in (ran[drawn], may[drawn], (may & ran)[drawn]):
            allowed = np.where(group.any(axis=1, keepdims=True), group, allowed)
        cell = np.arange(len(drawn))[:, None] * bins + clusters[drawn] + 1
        shape, size = (len(drawn), bins), len(drawn) * bins
        totals = np.bincount(cell[allowed], votes[drawn][allowed], minlength=size).reshape(shape)
        present = np.bincount(cell[allowed], minlength=size).reshape(shape) > 0
        best_total = np.where(present, totals, -np.inf).max(axis=1, keepdims=True)
        wins = present & (totals >= best_total - 1e-12)
        highest = np.full(size, -1)
        np.maximum.at(highest, cell[allowed], order[drawn][allowed])
        chosen = allowed & wins.ravel()[cell] & (order[drawn] == highest[cell])
        sharing = np.bincount(cell[chosen], minlength=size)
        share = 1.0 / np.maximum(sharing[cell], 1) / wins.sum(axis=1, keepdims=True)
        return np.where(chosen, share, 0.0)

    return rule


def prune(
    numbers: np.ndarray, passes_public: np.ndarray, most: int | np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prune-then-execute: run the ``most`` best candidates on the public tests, best first, and return the first pass.

    If none of them passes, the best is returned. ``most`` = 0 is the plain ranking, ``most`` >= k the filter. Equal
    numbers are run in random order; the result is the exact mean over the orders.

    Args:
      numbers: (n,) higher is better, NaN ranks last.
      passes_public: (n,) bool.
      most: Maximum number of programs to run, for all subsets or (S,).
      drawn: (S, k) indices of the candidates in each subset.

    Returns:
      (S, k) probability that each candidate is returned, and (S,) expected number of programs run.
    """
    level, most = levels(numbers), np.reshape(most, (-1, 1))  # a column, one row per subset
    rank = level.max() - level  # 0 is the best group of equal numbers
    bins = int(rank.max()) + 1
    passing = np.asarray(passes_public, dtype=bool)[drawn]
    cell = np.arange(len(drawn))[:, None] * bins + rank[drawn]
    shape, total = (len(drawn), bins), len(drawn) * bins
    size = np.bincount(cell.ravel(), minlength=total).reshape(shape)
    passes = np.bincount(cell[passing], minlength=total).reshape(shape)
    runs = np.clip(most - (np.cumsum(size, axis=1) - size), 0, size)  # programs of each group that may be run
    reached = np.cumsum(passes, axis=1) == passes  # no better group has a pass
    # The chance that the first t programs of a group all fail is C(size - passes, t) / C(size, t).
    all_fail, executions = np.ones(shape), np.zeros(shape)
    for t in range(int(runs.max(initial=0))):
        running = reached & (t < runs)
        if not running.any():
            break
        executions += np.where(running, all_fail, 0.0)
        all_fail *= np.where(running, np.maximum(size - passes - t, 0) / np.maximum(size - t, 1), 1.0)
    # Groups above the best one with a pass change nothing, and groups below it are not run: one entry is below 1.
    none_found = all_fail.min(axis=1, keepdims=True)
    deciding = reached & (passes > 0)
    hit = (1.0 - none_found) / np.maximum(passes, 1)
    top = cell == cell.min(axis=1, keepdims=True)
    rest = top & ~(passing & (most > 0))  # candidates to return if no program that was run passes
    fallback = none_found / np.maximum(rest.sum(axis=1, keepdims=True), 1)
    weights = np.where(passing & deciding.ravel()[cell], hit.ravel()[cell], 0.0) + np.where(rest, fallback, 0.0)
    return weights, executions.sum(axis=1)


LIMIT = 1000
"""Maximum number of subsets to enumerate; if there are more, this many are sampled."""


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
    """The probability, averaged over S subsets, that each candidate is returned.

    Args:
      drawn: (S, k) indices of the candidates in each subset.
      weights: (S, k) probability that each is returned from that subset.
      n: Number of candidates.

    Returns:
      (n,).
    """
    return np.bincount(drawn.ravel(), weights.ravel(), minlength=n) / len(drawn)
