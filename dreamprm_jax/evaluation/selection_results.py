"""Best-of-N results in the paper's format: one row per method, one column per difficulty, intervals, paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.aggregator_choice import cross_fitted
from dreamprm_jax.evaluation.judged_candidates import DIFFICULTIES, Candidates
from dreamprm_jax.evaluation.program_metrics import program_level
from dreamprm_jax.evaluation.ranking import RANDOM, Method, arm_method, methods
from dreamprm_jax.metrics.statistics import (
    bootstrap_means,
    mcnemar,
    percentile_interval,
    random_selection_test,
    recovered_share,
)
from dreamprm_jax.selection.aggregators import AGGREGATORS
from dreamprm_jax.selection.best_of_n import powers_of_two
from dreamprm_jax.selection.reward_models import BASELINE_ARM


def selection_results(
    candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str, samples: int, seed: int
) -> dict[str, Any]:
    """All selection results of one window.

    Args:
      candidates: Candidates of P problems.
      arms: Training arms with scores.
      aggregator: Aggregator of the PRM arms.
      samples: Number of bootstrap resamples.
      seed: Seed of the bootstrap; all results use the same resamples.

    Returns:
      JSON-ready: ``counts``, ``best_of`` (the largest number of candidates), ``table``, ``differences``, ``curve``,
      ``aggregators``, ``platforms``, ``months`` and ``programs``.
    """
    chosen = methods(candidates, arms, aggregator)
    most = max(len(one.passed) for one in candidates)
    points = sorted({*powers_of_two(most), most})
    curve = np.stack([[method.accuracies(candidates, k) for k in points] for method in chosen])  # (R, k, P)
    final = np.stack([method.accuracies(candidates, most) for method in chosen])  # (R, P)
    replicates = bootstrap_means(np.concatenate([final, curve.reshape(-1, len(candidates))]), samples, seed)
    final_replicates = replicates[:, : len(chosen)]
    curve_replicates = replicates[:, len(chosen) :].reshape(-1, *curve.shape[:2])
    return {
        "counts": _group_counts(candidates),
        "best_of": most,
        "problems_with_fewer_candidates": sum(len(one.passed) < most for one in candidates),
        "table": _table(chosen, candidates, final, final_replicates),
        "differences": _differences(chosen, final, final_replicates),
        "curve": {
            "k": points,
            "methods": {
                method.key: [
                    asdict(percentile_interval(float(curve[row, column].mean()), curve_replicates[:, row, column]))
                    for column in range(len(points))
                ]
                for row, method in enumerate(chosen)
            },
        },
        "aggregators": {arm: _aggregators(candidates, arm, most, seed) for arm in arms},
        "platforms": _breakdown(chosen, final, "platform", [one.problem.platform for one in candidates]),
        "months": _breakdown(chosen, final, "month", [one.problem.contest_date[:7] for one in candidates]),
        "programs": [program_level(method, candidates, samples, seed) for method in chosen[1:]],
    }


CROSS_FITTED = "chosen on other folds"


def _aggregators(candidates: Sequence[Candidates], arm: str, most: int, seed: int) -> dict[str, float]:
    """Accuracy of an arm under each aggregator, and under the aggregator chosen on the other folds of the problems."""
    accuracies = {name: arm_method(candidates, arm, name).accuracies(candidates, most) for name in AGGREGATORS}
    chosen = cross_fitted(list(accuracies.values()), seed=seed)
    return {name: float(values.mean()) for name, values in [*accuracies.items(), (CROSS_FITTED, chosen)]}


def _group_counts(candidates: Sequence[Candidates]) -> dict[str, int]:
    counts = {name: sum(one.problem.difficulty == name for one in candidates) for name in DIFFICULTIES}
    return {**counts, "overall": len(candidates)}


def _table(
    chosen: Sequence[Method], candidates: Sequence[Candidates], final: np.ndarray, replicates: np.ndarray
) -> list[dict[str, Any]]:
    difficulty = np.array([one.problem.difficulty for one in candidates])
    means, (first, last) = final.mean(axis=1), (0, len(chosen) - 1)
    rows = []
    for index, method in enumerate(chosen):
        shares = recovered_share(replicates[:, index], replicates[:, first], replicates[:, last])
        share = float(recovered_share(means[index], means[first], means[last]))
        rows.append(
            {
                "method": method.key,
                "label": method.label,
                **{name: _mean(final[index, difficulty == name]) for name in DIFFICULTIES},
                "overall": asdict(percentile_interval(float(means[index]), replicates[:, index])),
                "solved": float(final[index].sum()),
                "recovered_share": asdict(percentile_interval(share, shares)),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _differences(chosen: Sequence[Method], final: np.ndarray, replicates: np.ndarray) -> list[dict[str, Any]]:
    """Each arm against random, and each other arm against the PRM on raw labels."""
    keys = [method.key for method in chosen]
    arms = keys[1:-1]
    pairs = [(arm, RANDOM) for arm in arms]
    if BASELINE_ARM in arms:
        pairs += [(arm, BASELINE_ARM) for arm in arms if arm != BASELINE_ARM]
    rows = []
    for key, against in pairs:
        one, other = keys.index(key), keys.index(against)
        test = mcnemar(final[one], final[other])
        gap = float((final[one] - final[other]).mean())
        random = against == RANDOM
        rows.append(
            {
                "method": key,
                "against": against,
                "label": f"{chosen[one].label} - {'random' if random else chosen[other].label}",
                **asdict(percentile_interval(gap, replicates[:, one] - replicates[:, other])),
                "problems": gap * final.shape[1],
                "wins": None if random else test.wins,
                "losses": None if random else test.losses,
                "test": "exact, Poisson binomial, one-sided" if random else "McNemar, exact, two-sided",
                "p_value": random_selection_test(final[other], final[one].sum()) if random else test.p_value,
            }
        )
    return rows


def _breakdown(
    chosen: Sequence[Method], final: np.ndarray, name: str, groups: Sequence[str]
) -> list[dict[str, float | str | int]]:
    """Accuracy of every method in each group of problems; a drop over months indicates contamination of the policy."""
    group = np.array(groups)
    return [
        {
            name: value,
            "problems": int((group == value).sum()),
            **{method.key: float(final[index, group == value].mean()) for index, method in enumerate(chosen)},
        }
        for value in sorted(set(groups))
    ]
