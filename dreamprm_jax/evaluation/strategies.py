"""Selection beyond ranking by a score: public tests, votes, prune-then-execute, and the cost of each.

The methods of the main table only read programs. The strategies here may also run them, either on public tests, whose
answers are part of the problem, or on inputs without answers. Each strategy is compared with the method that it
extends: best of N by a PRM alone, or a random choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import RANDOM, Method
from dreamprm_jax.selection.aggregators import as_probability
from dreamprm_jax.selection.best_of_n import best_of_k_weights
from dreamprm_jax.selection.execution_rules import Rule, filter_numbers, mean_weights, prune, subsets, vote_rule
from dreamprm_jax.selection.reward_models import arm_aggregator, short_label

PUBLIC = "public"
"""A random choice among the candidates that pass the public tests."""

Select = Callable[[int, int], tuple[np.ndarray, float]]
"""(index of a problem, k) -> (n,) probability that each candidate is returned if k of them are drawn, and the expected
number of programs that are run."""


@dataclass(frozen=True)
class Strategy:
    """A selection strategy and its cost per problem."""

    key: str
    label: str
    base: str  # key of the method or strategy that it extends
    select: Select
    forwards: bool  # whether a reward model scores every candidate


def ranking(method: Method, base: str, label: str, forwards: bool, judged: int = 0) -> Strategy:
    """Best of k by a method's numbers; ``judged`` = 1 if each candidate must be run once to get its number."""

    def select(index: int, k: int) -> tuple[np.ndarray, float]:
        return best_of_k_weights(method.numbers[index], k), float(judged * k)

    return Strategy(method.key, label, base, select, forwards)


def execution_strategies(
    candidates: Sequence[Candidates],
    arms: Sequence[Method],
    aggregator: str,
    clusters: Sequence[np.ndarray] | None,
    prune_top: int,
    seed: int,
) -> list[Strategy]:
    """All strategies for which the inputs exist.

    Args:
      candidates: Candidates of P problems.
      arms: Methods of the reward models, as in the main table.
      aggregator: Aggregator of the PRM arms.
      clusters: Clusters of each problem's candidates; None without executions.
      prune_top: Maximum number of candidates that prune-then-execute may run.
      seed: Seed of the subsets, if there are too many to enumerate.
    """
    result = []
    for key, label, reported in (
        ("logprob", "mean log-probability", [one.log_probability for one in candidates]),
        ("logprob_exact", "log-probability, exact", [one.exact_log_probability for one in candidates]),
    ):
        if any(values is not None for values in reported):
            known = zip(candidates, reported, strict=True)
            numbers = tuple(np.full(len(one.passed), np.nan) if own is None else own for one, own in known)
            result.append(ranking(Method(key, "", numbers), RANDOM, label, forwards=False))
    has_public, public = any(one.public is not None for one in candidates), passes_public(candidates)
    if has_public:
        numbers = tuple(row.astype(float) for row in public)
        result.append(ranking(Method(PUBLIC, "", numbers), RANDOM, "public tests", forwards=False, judged=1))
        filtered = [(method.key, public_filter(method, candidates)) for method in arms]
        result += [ranking(behind, base, behind.label, forwards=True, judged=1) for base, behind in filtered]
        result += [_pruned(method, public, prune_top, seed) for method in arms]
    if clusters is not None:
        plain = [vote_rule(own) for own in clusters]
        result.append(_vote("vote", "vote", RANDOM, plain, clusters, seed))
        if has_public:
            rules = [vote_rule(own, eligible=passing) for own, passing in zip(clusters, public, strict=True)]
            result.append(_vote("public_vote", "public + vote", PUBLIC, rules, clusters, seed))
        for method in arms:
            name = arm_aggregator(method.key, aggregator)
            rules = [
                vote_rule(own, as_probability(numbers, name), numbers)
                for own, numbers in zip(clusters, method.numbers, strict=True)
            ]
            label = f"vote by {short_label(method.key)}"
            result.append(_vote(f"vote+{method.key}", label, method.key, rules, clusters, seed, forwards=True))
    return result


def passes_public(candidates: Sequence[Candidates]) -> list[np.ndarray]:
    """(n,) bool for each problem: passes the public tests; all True for a problem without any."""
    return [np.ones(len(one.passed), bool) if one.public is None else one.public for one in candidates]


def public_filter(method: Method, candidates: Sequence[Candidates]) -> Method:
    """A method with the public-test filter; problems without public tests keep the order of the method."""
    numbers = tuple(map(filter_numbers, method.numbers, passes_public(candidates)))
    return Method(f"public+{method.key}", f"public + {short_label(method.key)}", numbers)


def _pruned(method: Method, public: Sequence[np.ndarray], most: int, seed: int) -> Strategy:
    """Runs the ``most`` best candidates of an arm on the public tests, up to the first pass."""

    def select(index: int, k: int) -> tuple[np.ndarray, float]:
        n = len(public[index])
        drawn = subsets(n, k, seed=seed)
        weights, runs = prune(method.numbers[index], public[index], most, drawn)
        return mean_weights(drawn, weights, n), float(runs.mean())

    label = f"{short_label(method.key)}, top {most} run"
    return Strategy(f"prune{most}+{method.key}", label, method.key, select, forwards=True)


def _vote(
    key: str,
    label: str,
    base: str,
    rules: Sequence[Rule],
    clusters: Sequence[np.ndarray],
    seed: int,
    forwards: bool = False,
) -> Strategy:
    """A vote; every drawn candidate is run."""

    def select(index: int, k: int) -> tuple[np.ndarray, float]:
        drawn = subsets(len(clusters[index]), k, seed=seed)
        return mean_weights(drawn, rules[index](drawn), len(clusters[index])), float(k)

    return Strategy(key, label, base, select, forwards)


def prune_curve(method: Method, candidates: Sequence[Candidates]) -> list[dict[str, float]]:
    """Accuracy and number of programs run, for every maximum number of runs of prune-then-execute.

    The maximum ranges from 0 (the reward model alone) to all candidates (the public-test filter).
    """
    limits = np.arange(max(len(one.passed) for one in candidates) + 1)
    accuracy, judged = np.empty((2, len(candidates), len(limits)))
    for index, (own, passing) in enumerate(zip(method.numbers, passes_public(candidates), strict=True)):
        everyone = np.tile(np.arange(len(own)), (len(limits), 1))
        weights, judged[index] = prune(own, passing, limits, everyone)
        accuracy[index] = weights @ candidates[index].passed
    return [
        {"runs": float(runs), "judged": float(judged[:, runs].mean()), "accuracy": float(accuracy[:, runs].mean())}
        for runs in limits
    ]
