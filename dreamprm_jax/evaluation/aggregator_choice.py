"""Chooses the aggregator on held-out problems.

The accuracy of the best of eight aggregators is biased upwards on the problems on which it was chosen. Therefore it is
chosen on other problems: on the meta window, if its problems have several scored candidates each
(``evaluate.aggregator = "auto"``), or on the other folds of the test window (``cross_fitted``). The latter estimates
the accuracy to expect from a choice on similar labeled problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.ranking import arm_method
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Skip
from dreamprm_jax.selection.aggregators import AGGREGATORS
from dreamprm_jax.selection.reward_models import DEFAULT_AGGREGATOR, is_outcome_model

MIN_PROBLEMS = 20
"""Minimum number of problems with both passing and failing candidates; with fewer, the choice would be noise."""


@dataclass(frozen=True)
class AggregatorChoice:
    """The chosen aggregator and the reason."""

    name: str
    reason: str
    accuracies: Mapping[str, float]  # accuracy of each aggregator on held-out problems; empty if none was chosen


def automatic(
    accuracies: Mapping[str, np.ndarray] | None, mixed: int, default: str, where: str, missing: str = ""
) -> AggregatorChoice:
    """The aggregator with the highest mean accuracy; ties go to the default, then to the order of the mapping.

    Args:
      accuracies: Aggregator -> (P,) best-of-N accuracy on each held-out problem, averaged over the reward models; None
        if there are no held-out problems.
      mixed: Number of those problems with both passing and failing candidates.
      default: Aggregator to keep if there are too few.
      where: Description of the held-out candidates.
      missing: Reason why there are no held-out candidates.
    """
    if accuracies is None or mixed < MIN_PROBLEMS:
        reason = missing or f"{where}: {mixed} problems with passing and failing candidates, {MIN_PROBLEMS} are needed"
        return AggregatorChoice(default, f"{default} kept, nothing to choose on ({reason})", {})
    means = {name: float(np.mean(values)) for name, values in accuracies.items()}
    best = max(means.values())
    ties = [name for name, value in means.items() if value >= best - 1e-12]
    name = default if default in ties else ties[0]
    return AggregatorChoice(name, f"chosen on {where}, {mixed} with passing and failing candidates", means)


def cross_fitted(accuracies: Sequence[np.ndarray], folds: int = 5, repeats: int = 20, seed: int = 0) -> np.ndarray:
    """Accuracy on each problem under the aggregator that is best on the other folds.

    Args:
      accuracies: (P,) accuracies on each problem, one array per aggregator.
      folds: Number of folds.
      repeats: Number of random partitions to average over.
      seed: Seed of the partitions.

    Returns:
      (P,), whose mean estimates the accuracy of choosing on other problems; NaN with fewer problems than folds.
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


def choose_aggregator(config: Config, paths: Paths, skips: list[Skip]) -> AggregatorChoice:
    """The configured aggregator, or for "auto" the one with the best mean accuracy of the PRM arms on the meta window.

    All arms share one aggregator, so that they stay comparable. The meta window's problems are not those of the table,
    but training has seen their outcomes, so the choice may favor what a model has memorized.
    """
    if config.evaluate.aggregator != "auto":
        return AggregatorChoice(config.evaluate.aggregator, "set in the configuration", {})
    arms = [arm for arm in config.train.arms if not is_outcome_model(arm)]
    if not arms:
        return automatic(None, 0, DEFAULT_AGGREGATOR, "", "no PRM arm")
    missing = [arm for arm in arms if not paths.scores(arm, "meta").exists()]
    if missing:
        return automatic(
            None,
            0,
            DEFAULT_AGGREGATOR,
            "",
            f"no scores of the meta window by {', '.join(missing)}: set score.windows to ('test', 'meta')",
        )
    candidates, left_out = load_candidates(paths, "meta", arms)
    skips += left_out
    return choose_on(candidates, arms, f"{sum(len(one.passed) for one in candidates)} meta candidates")


def choose_on(candidates: Sequence[Candidates], arms: Sequence[str], where: str) -> AggregatorChoice:
    """The choice on given candidates."""
    mixed = [one for one in candidates if one.passed.min() < one.passed.max()]
    if not mixed:
        return automatic(None, 0, DEFAULT_AGGREGATOR, where)
    most = max(len(one.passed) for one in mixed)
    accuracies = {
        name: np.mean([arm_method(mixed, arm, name).accuracies(mixed, most) for arm in arms], axis=0)
        for name in AGGREGATORS
    }
    return automatic(accuracies, len(mixed), DEFAULT_AGGREGATOR, f"{where} of {len(candidates)} problems")
