"""Reward models (training arms): their names in tables, and the aggregator of each."""

from __future__ import annotations

from dreamprm_jax.config import EvaluateConfig

BASELINE_ARM = "raw"
DEFAULT_AGGREGATOR: str = EvaluateConfig.aggregator
"""Matches the default labels (docs/label_correction.md)."""
LABELS = {
    "orm": "ORM",
    "raw": "PRM, raw labels",
    "corrected": "PRM, corrected labels",
    "em": "PRM, EM labels",
    "value": "PRM, value labels",
    "table_on_em": "PRM, table on EM",
}
"""Names of arms in tables. The name of any other arm is derived from its key."""


def arm_label(arm: str) -> str:
    """The name of a training arm in tables."""
    return LABELS.get(arm, f"PRM, {arm.replace('_', ' ')}")


def short_label(arm: str) -> str:
    """The name of a training arm within a longer label."""
    label = arm_label(arm)
    return f"PRM ({label.removeprefix('PRM, ').removesuffix(' labels')})" if label.startswith("PRM, ") else label


def is_outcome_model(arm: str) -> bool:
    """Whether an arm is trained only on outcomes; its scores of steps before the last are meaningless."""
    return arm == "orm" or arm.startswith("orm_")


def arm_aggregator(arm: str, aggregator: str = DEFAULT_AGGREGATOR) -> str:
    """The aggregator for one arm: an outcome model is read at the last step only."""
    return "last" if is_outcome_model(arm) else aggregator
