"""Data of the label plots, read from the rows of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.step_results import StepRows
from dreamprm_jax.labeling.correction.methods import noisy_steps
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, StepLabel, StepTruth
from dreamprm_jax.selection.reward_models import arm_label

NEAR = 3
"""Number of steps before and after the first wrong step in a profile."""


@dataclass(frozen=True)
class LabelPlot:
    """Training labels of M steps."""

    raw: np.ndarray  # (M,)
    changed: Mapping[str, np.ndarray]  # (M,) labels of each arm that changed them
    recoverable: np.ndarray | None  # (M,) bool, None without exact truth


def label_plot(
    labels: Sequence[StepLabel],
    corrected: Mapping[str, Sequence[CorrectedLabel]],
    truth: Sequence[StepTruth] | None,
) -> LabelPlot | None:
    """Joins the rows of the same steps, without last steps, as in the tables. None if no step is left."""
    after = {
        arm: {(row.program_hash, row.step_index): row.corrected for row in rows}
        for arm, rows in corrected.items()
        if rows
    }
    known = None if truth is None else {(row.program_hash, row.step_index): row.recoverable for row in truth}
    kept = [
        (row.mean, key)
        for row in noisy_steps(labels)
        if (key := (row.program_hash, row.step_index)) is not None
        and row.rollouts
        and all(key in values for values in after.values())
        and (known is None or key in known)
    ]
    if not kept:
        return None
    return LabelPlot(
        raw=np.array([mean for mean, _ in kept]),
        changed={arm: np.array([values[key] for _, key in kept]) for arm, values in after.items()},
        recoverable=None if known is None else np.array([known[key] for _, key in kept], dtype=bool),
    )


TRAINING_QUANTITIES = {
    "inner_loss": "inner loss",
    "label_drift": "mean |label - raw label|",
    "label_error": "mean |label - true value|",
    "hypergradient_sign_agreement": "hypergradient signs that are right",
    "meta_loss": "outer loss, whole meta set",
    "meta_step_auroc": "step AUROC, meta set",
    "meta_outcome_auroc": "outcome AUROC, meta set",
}
"""Quantities of metrics.jsonl that the report plots, if the run has them."""


@dataclass(frozen=True)
class TrainingCurve:
    """One quantity over the steps of training."""

    title: str
    arms: Mapping[str, tuple[list[int], list[float]]]  # arm -> steps, values


def training_curves(paths: Paths, arms: Sequence[str]) -> list[TrainingCurve]:
    """One curve for every quantity of training that some arm has."""
    rows = {arm: _metrics(paths.arm(arm) / "metrics.jsonl") for arm in arms}
    curves = []
    for name, title in TRAINING_QUANTITIES.items():
        found = {arm: [(int(row["step"]), float(row[name])) for row in own if name in row] for arm, own in rows.items()}
        lines = {arm: ([step for step, _ in own], [value for _, value in own]) for arm, own in found.items() if own}
        if any(any(values) for _, values in lines.values()):
            curves.append(TrainingCurve(title, lines))
    return curves


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]  # a kill may truncate the last line


@dataclass(frozen=True)
class StepProfile:
    """Means by distance from the first wrong step, over programs that have one."""

    title: str
    quantity: str
    offsets: list[int]
    truth: list[float]
    means: Mapping[str, list[float]]
    labels: Mapping[str, str]


def step_profile(rows: StepRows, title: str, quantity: str, label: str) -> StepProfile | None:
    """The profile of some numbers around the first wrong step; None if no program has a wrong step.

    Args:
      rows: Steps with truth.
      title: Title of the panel.
      quantity: Name of the quantity.
      label: If ``arm``, columns are named like training arms. Any other text is appended to the name of the column.
    """
    first_wrong = rows.first_wrong[rows.program]
    offset = np.where(first_wrong >= 0, rows.step - first_wrong, NEAR + 1)
    offsets = [value for value in range(-NEAR, NEAR + 1) if (offset == value).any()]
    if not offsets:
        return None

    def means(values: np.ndarray) -> list[float]:
        return [float(values[offset == value].mean()) for value in offsets]

    return StepProfile(
        title,
        quantity,
        offsets,
        means(rows.value),
        {name: means(values) for name, values in rows.numbers.items()},
        {name: arm_label(name) if label == "arm" else f"{name.replace('_', ' ')} {label}" for name in rows.numbers},
    )
