"""Reward models (training arms): their names in tables, and the aggregator that reads each."""

from __future__ import annotations

BASELINE_ARM = "raw"
LABELS = {
    "orm": "ORM",
    "raw": "PRM, raw labels",
    "corrected": "PRM, corrected labels",
    "em": "PRM, EM labels",
    "value": "PRM, value labels",
    "table_on_em": "PRM, table on EM",
}
"""Names of arms in tables; any other arm is shown by the words of its key."""


def arm_label(arm: str) -> str:
    """The name of a training arm in tables."""
    return LABELS.get(arm, f"PRM, {arm.replace('_', ' ')}")


def short_label(arm: str) -> str:
    """The name of a training arm within a longer one."""
    label = arm_label(arm)
    return f"PRM ({label.removeprefix('PRM, ').removesuffix(' labels')})" if label.startswith("PRM, ") else label


def is_outcome_model(arm: str) -> bool:
    """Whether an arm is trained on outcomes alone; its score of a step before the last has no meaning."""
    return arm == "orm" or arm.startswith("orm_")


def arm_aggregator(arm: str, aggregator: str) -> str:
    """An outcome model reads the complete program, so it is always read at the last step."""
    return "last" if is_outcome_model(arm) else aggregator
