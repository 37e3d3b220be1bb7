"""Ways to select that run programs: public-test filter, votes of execution clusters, prune-then-execute.

Each is a rule: the indices of the candidates that were drawn -> the chance that each of them is returned. None reads a
hidden test. Filters and prune-then-execute compare with the expected outputs of the public tests; a vote only groups
programs by what they print (AlphaCode, arXiv 2203.07814; MBR-exec, arXiv 2204.11454), so it needs no expected output.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rule = Callable[[np.ndarray], np.ndarray]
"""Indices (k,) of the candidates at hand -> weights (k,) that sum to one."""


def filter_numbers(numbers: np.ndarray, passes_public: np.ndarray) -> np.ndarray:
    """Public-test filter, then ``numbers``: every candidate that passes the public tests above all that do not.

    Args:
      numbers: (n,) higher is better; NaN (no score) is the lowest of its group, where best-of-N would rank it last.
      passes_public: (n,) bool.

    Returns:
      (n,) numbers that only rank.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    level = np.unique(numbers[~np.isnan(numbers)], return_inverse=True)[1] + 1.0
    ranked = np.zeros(len(numbers))
    ranked[~np.isnan(numbers)] = level
    return ranked + np.asarray(passes_public, dtype=bool) * (len(numbers) + 1.0)


def vote_rule(
    clusters: np.ndarray,
    weights: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
    eligible: np.ndarray | None = None,
) -> Rule:
    """The cluster with the largest total weight wins; within it the highest number, or any member.

    Args:
      clusters: (n,) cluster of each candidate; -1 for one that failed to run, which wins only where all failed.
      weights: (n,) votes of each candidate, at least 0, NaN counting 0; None: one each (the plain vote).
      numbers: (n,) decide within the winning cluster; None: uniform.
      eligible: (n,) bool: a public-test filter before the vote; where none of the drawn passes it, all vote.
    """
    votes = np.ones(len(clusters)) if weights is None else np.nan_to_num(np.asarray(weights, dtype=np.float64))

    def rule(drawn: np.ndarray) -> np.ndarray:
        may = np.ones(len(drawn), dtype=bool) if eligible is None else eligible[drawn]
        ran = clusters[drawn] >= 0
        allowed = next(group for group in (may & ran, may, ran, np.ones(len(drawn), dtype=bool)) if group.any())
        own = clusters[drawn][allowed]
        names, member = np.unique(own, return_inverse=True)
        totals = np.bincount(member, votes[drawn][allowed], minlength=len(names))
        winners = np.flatnonzero(totals >= totals.max() - 1e-12)
        result = np.zeros(len(drawn))
        places = np.flatnonzero(allowed)
        for winner in winners:
            inside = places[member == winner]
            result[inside] = _spread(numbers, drawn[inside]) / len(winners)
        return result

    return rule


def _spread(numbers: np.ndarray | None, members: np.ndarray) -> np.ndarray:
    """Weight on the best of the members, equal where they tie; equal on all without numbers."""
    if numbers is None or np.isnan(numbers[members]).all():
        return np.full(len(members), 1.0 / len(members))
    best = numbers[members] >= np.nanmax(numbers[members])
    return best / best.sum()


def prune_order(numbers: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Places in ``drawn`` from the highest number to the lowest, NaN last; ties by index."""
    return np.argsort(-np.where(np.isnan(numbers[drawn]), -np.inf, numbers[drawn]), kind="stable")


def prune_rule(numbers: np.ndarray, passes_public: np.ndarray, most: int) -> Rule:
    """Prune-then-execute: run the ``most`` best candidates on the public tests, best first, and return the first pass.

    Where none of them passes, the best is returned. ``most`` = 0 is the PRM alone, ``most`` >= k the filter.
    """

    def rule(drawn: np.ndarray) -> np.ndarray:
        order = prune_order(numbers, drawn)
        passing = order[:most][passes_public[drawn][order[:most]]]
        result = np.zeros(len(drawn))
        result[passing[0] if len(passing) else order[0]] = 1.0
        return result

    return rule


def prune_executions(numbers: np.ndarray, passes_public: np.ndarray, most: int) -> Callable[[np.ndarray], float]:
    """How many candidates ``prune_rule`` runs on the public tests before it stops."""

    def executions(drawn: np.ndarray) -> float:
        tried = passes_public[drawn][prune_order(numbers, drawn)[:most]]
        return float(np.argmax(tried) + 1 if tried.any() else len(tried))

    return executions
