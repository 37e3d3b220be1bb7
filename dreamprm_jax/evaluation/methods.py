"""Ways to choose among candidates: random, each trained arm, the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.candidates import Candidates
from dreamprm_jax.selection.aggregators import aggregate
from dreamprm_jax.selection.best_of_n import best_of_k

RANDOM, ORACLE, BASELINE_ARM = "random", "oracle", "raw"
LABELS = {
    "orm": "ORM",
    "raw": "PRM, raw labels",
    "corrected": "PRM, corrected labels",
    "em": "PRM, EM labels",
    "value": "PRM, value labels",
    "table_on_em": "PRM, table on EM",
}
"""Names of arms in tables; any other arm is named by its own words."""


def arm_label(arm: str) -> str:
    """The name of a training arm in tables."""
    return LABELS.get(arm, f"PRM, {arm.replace('_', ' ')}")


def short_label(arm: str) -> str:
    """The name of a training arm within a longer one."""
    label = arm_label(arm)
    return f"PRM ({label.removeprefix('PRM, ').removesuffix(' labels')})" if label.startswith("PRM, ") else label


def is_outcome_model(arm: str) -> bool:
    """Whether an arm is trained on outcomes alone; its reading of a step before the last has no meaning."""
    return arm == "orm" or arm.startswith("orm_")


def arm_aggregator(arm: str, aggregator: str) -> str:
    """An outcome model reads the complete program, so it is always read at the last step."""
    return "last" if is_outcome_model(arm) else aggregator


@dataclass(frozen=True)
class Method:
    """A way to choose: one number for each candidate of each problem."""

    key: str
    label: str
    numbers: tuple[np.ndarray, ...]  # of each problem: (n,), NaN where there is no score

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
