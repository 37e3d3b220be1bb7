"""Selection methods: random, each trained arm, the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.selection.aggregators import aggregate
from dreamprm_jax.selection.best_of_n import best_of_k
from dreamprm_jax.selection.reward_models import arm_aggregator, arm_label

RANDOM, ORACLE = "random", "oracle"


@dataclass(frozen=True)
class Method:
    """A selection method: one number for each candidate of each problem."""

    key: str
    label: str
    numbers: tuple[np.ndarray, ...]  # one (n,) array per problem; NaN without a score

    def accuracies(self, candidates: Sequence[Candidates], k: int) -> np.ndarray:
        """(P,) expected accuracy of best-of-k, with k capped at a problem's number of candidates."""
        return np.array(
            [
                best_of_k(numbers, one.passed, min(k, len(one.passed)))
                for numbers, one in zip(self.numbers, candidates, strict=True)
            ]
        )


def arm_method(candidates: Sequence[Candidates], arm: str, aggregator: str) -> Method:
    """Selection by one arm's scores under one aggregator."""
    return Method(arm, arm_label(arm), tuple(aggregate(one.logits[arm], aggregator) for one in candidates))


def methods(candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str) -> list[Method]:
    """Random, each arm, and the oracle."""
    most = max(len(one.passed) for one in candidates)
    return [
        Method(RANDOM, "random (= pass@1)", tuple(np.zeros_like(one.passed) for one in candidates)),
        *(arm_method(candidates, arm, arm_aggregator(arm, aggregator)) for arm in arms),
        Method(ORACLE, f"oracle (= pass@{most})", tuple(one.passed for one in candidates)),
    ]
