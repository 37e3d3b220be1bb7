"""``evaluate.aggregator = "auto"``: the aggregator that selects best on the meta window's candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.methods import arm_method, is_outcome_model
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Skip
from dreamprm_jax.selection.aggregators import AGGREGATORS
from dreamprm_jax.selection.choose_aggregator import Choice, automatic

DEFAULT = "last"
"""The value of the complete program, which is what a Monte-Carlo label of its last step estimates."""


def choose_aggregator(config: Config, paths: Paths, skips: list[Skip]) -> Choice:
    """The configured aggregator, or for "auto" the one with the best mean accuracy of the PRM arms on the meta window.

    One aggregator for all arms, so that they stay comparable. The meta window's problems are not those of the table,
    but training has seen their outcomes: a choice there may favour what a model learned by heart.
    """
    if config.evaluate.aggregator != "auto":
        return Choice(config.evaluate.aggregator, "set in the configuration", {})
    arms = [arm for arm in config.train.arms if not is_outcome_model(arm)]
    if not arms:
        return automatic(None, 0, DEFAULT, "", "no PRM arm")
    missing = [arm for arm in arms if not paths.scores(arm, "meta").exists()]
    if missing:
        return automatic(
            None,
            0,
            DEFAULT,
            "",
            f"no scores of the meta window by {', '.join(missing)}: set score.windows to ('test', 'meta')",
        )
    candidates, left_out = load_candidates(paths, "meta", arms)
    skips += left_out
    return choose_on(candidates, arms, f"{sum(len(one.passed) for one in candidates)} meta candidates")


def choose_on(candidates: Sequence[Candidates], arms: Sequence[str], where: str) -> Choice:
    """The choice on given candidates."""
    mixed = [one for one in candidates if one.passed.min() < one.passed.max()]
    if not mixed:
        return automatic(None, 0, DEFAULT, where)
    most = max(len(one.passed) for one in mixed)
    accuracies = {
        name: np.mean([arm_method(mixed, arm, name).accuracies(mixed, most) for arm in arms], axis=0)
        for name in AGGREGATORS
    }
    return automatic(accuracies, len(mixed), DEFAULT, f"{where} of {len(candidates)} problems")
