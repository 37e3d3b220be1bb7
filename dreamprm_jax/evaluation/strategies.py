"""Selection beyond ranking by a score: public tests, votes, prune-then-execute, with what each costs.

The methods of the main table choose by reading alone. The ones here may run programs: on public tests, whose answers
are part of the problem, or on inputs without answers. Each stands beside the choice that it extends: a PRM's own best
of N, or a random choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.candidates import Candidates
from dreamprm_jax.evaluation.methods import RANDOM, Method, arm_aggregator, short_label
from dreamprm_jax.selection.aggregators import as_probability
from dreamprm_jax.selection.best_of_n import best_of_k_weights
from dreamprm_jax.selection.strategies import Rule, filter_numbers, prune_executions, prune_rule, vote_rule
from dreamprm_jax.selection.subsets import mean_over_subsets

PUBLIC = "public"
"""A random choice among the candidates that pass the public tests."""

Weights = Callable[[int, int], np.ndarray]
"""(index of a problem, k) -> (n,) chance that each of its candidates is returned when k of them are at hand."""


@dataclass(frozen=True)
class Strategy:
    """A way to select, and what it costs a problem."""

    key: str
    label: str
    base: str  # key of the method or strategy that it extends
    weights: Weights
    judged: Callable[[int, int], float]  # programs run for k candidates of a problem
    forwards: bool  # whether every candidate is read by a reward model


def ranking(method: Method, base: str, label: str, forwards: bool, judged: int = 0) -> Strategy:
    """Best of k by a method's numbers; ``judged`` = 1 where each candidate is run once to know its number."""
    return Strategy(
        method.key,
        label,
        base,
        lambda index, k: best_of_k_weights(method.numbers[index], k),
        lambda index, k: float(judged * k),
        forwards,
    )


def _by_subsets(sizes: Sequence[int], rules: Sequence[Rule], seed: int) -> Weights:
    def weights(index: int, k: int) -> np.ndarray:
        def one(drawn: np.ndarray) -> np.ndarray:
            result = np.zeros(sizes[index])
            result[drawn] = rules[index](drawn)
            return result

        return mean_over_subsets(one, sizes[index], k, seed=seed)

    return weights


def strategies(
    candidates: Sequence[Candidates],
    arms: Sequence[Method],
    aggregator: str,
    clusters: Sequence[np.ndarray] | None,
    prune_top: int,
    seed: int,
) -> list[Strategy]:
    """Every strategy for which there is what it needs.

    Args:
      candidates: of P problems.
      arms: the reward models' methods, as in the main table.
      aggregator: of the PRM arms' numbers.
      clusters: of each problem's candidates, or None without executions.
      prune_top: candidates that prune-then-execute may run.
      seed: of subsets, where there are too many to enumerate.
    """
    result = []
    if any(one.log_probability is not None for one in candidates):
        numbers = tuple(
            np.full(len(one.passed), np.nan) if one.log_probability is None else one.log_probability
            for one in candidates
        )
        result.append(ranking(Method("logprob", "", numbers), RANDOM, "mean log-probability", forwards=False))
    has_public = any(one.public is not None for one in candidates)
    public = [np.ones(len(one.passed), bool) if one.public is None else one.public for one in candidates]
    if has_public:
        numbers = tuple(row.astype(float) for row in public)
        result.append(ranking(Method(PUBLIC, "", numbers), RANDOM, "public tests", forwards=False, judged=1))
        filtered = [(method.key, public_filter(method, candidates)) for method in arms]
        result += [ranking(behind, base, behind.label, forwards=True, judged=1) for base, behind in filtered]
        result += [_pruned(method, public, prune_top, seed) for method in arms]
    if clusters is not None:
        result.append(_vote("vote", "vote", RANDOM, clusters, seed))
        if has_public:
            result.append(_vote("public_vote", "public + vote", PUBLIC, clusters, seed, eligible=public))
        for method in arms:
            name = arm_aggregator(method.key, aggregator)
            weights = [as_probability(numbers, name) for numbers in method.numbers]
            label = f"vote by {short_label(method.key)}"
            rules = [
                vote_rule(own, weight, numbers)
                for own, weight, numbers in zip(clusters, weights, method.numbers, strict=True)
            ]
            sizes = [len(own) for own in clusters]
            result.append(
                Strategy(
                    f"vote+{method.key}", label, method.key, _by_subsets(sizes, rules, seed), _everything, forwards=True
                )
            )
    return result


def _everything(index: int, k: int) -> float:
    return float(k)


def public_filter(method: Method, candidates: Sequence[Candidates]) -> Method:
    """A method behind the public-test filter; problems without public tests keep the method's own order."""
    numbers = tuple(
        filter_numbers(own, np.ones(len(own), bool) if one.public is None else one.public)
        for own, one in zip(method.numbers, candidates, strict=True)
    )
    return Method(f"public+{method.key}", f"public + {short_label(method.key)}", numbers)


def _pruned(method: Method, public: Sequence[np.ndarray], most: int, seed: int) -> Strategy:
    """The best ``most`` by the arm are run on the public tests, up to the first pass."""
    rules = [prune_rule(own, passing, most) for own, passing in zip(method.numbers, public, strict=True)]
    sizes = [len(own) for own in public]

    def judged(index: int, k: int) -> float:
        count = prune_executions(method.numbers[index], public[index], most)
        return float(mean_over_subsets(count, sizes[index], k, seed=seed))

    label = f"{short_label(method.key)}, top {most} run"
    return Strategy(
        f"prune{most}+{method.key}", label, method.key, _by_subsets(sizes, rules, seed), judged, forwards=True
    )


def _vote(
    key: str,
    label: str,
    base: str,
    clusters: Sequence[np.ndarray],
    seed: int,
    eligible: Sequence[np.ndarray] | None = None,
) -> Strategy:
    rules = [
        vote_rule(own, eligible=None if eligible is None else eligible[index]) for index, own in enumerate(clusters)
    ]
    sizes = [len(own) for own in clusters]
    return Strategy(key, label, base, _by_subsets(sizes, rules, seed), _everything, forwards=False)


def prune_curve(method: Method, candidates: Sequence[Candidates]) -> list[dict[str, float]]:
    """What each further execution buys: accuracy and programs run, for every number that prune-then-execute may run.

    From the reward model alone (0 runs) to the public-test filter (all).
    """
    public = [np.ones(len(one.passed), bool) if one.public is None else one.public for one in candidates]
    most = max(len(own) for own in public)
    rows = []
    for runs in range(most + 1):
        accuracy, judged = [], []
        for own, passing, one in zip(method.numbers, public, candidates, strict=True):
            drawn = np.arange(len(own))
            accuracy.append(float(prune_rule(own, passing, runs)(drawn) @ one.passed))
            judged.append(prune_executions(own, passing, runs)(drawn))
        rows.append({"runs": float(runs), "judged": float(np.mean(judged)), "accuracy": float(np.mean(accuracy))})
    return rows
