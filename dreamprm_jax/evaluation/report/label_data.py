"""What the label plots show, read from the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.methods import arm_label
from dreamprm_jax.evaluation.step_table import StepRows, noisy_labels
from dreamprm_jax.schema import CorrectedLabel, StepLabel, StepTruth

NEAR = 3
"""Steps before and after the first wrong one that a profile shows."""


@dataclass(frozen=True)
class LabelPlot:
    """Training labels of M steps."""

    raw: np.ndarray  # (M,)
    corrected: np.ndarray | None  # (M,), None where no arm corrected them
    recoverable: np.ndarray | None  # (M,) bool, None without exact truth


def label_plot(
    labels: Sequence[StepLabel], corrected: Sequence[CorrectedLabel], truth: Sequence[StepTruth] | None
) -> LabelPlot | None:
    """Joins the rows of the same steps, last steps left out as in the tables; None where no step is left."""
    after = {(row.program_hash, row.step_index): row.corrected for row in corrected}
    known = None if truth is None else {(row.program_hash, row.step_index): row.recoverable for row in truth}
    kept = [
        (row.mean, key)
        for row in noisy_labels(labels)
        if (key := (row.program_hash, row.step_index)) is not None
        and row.rollouts
        and (not after or key in after)
        and (known is None or key in known)
    ]
    if not kept:
        return None
    return LabelPlot(
        raw=np.array([mean for mean, _ in kept]),
        corrected=np.array([after[key] for _, key in kept]) if after else None,
        recoverable=None if known is None else np.array([known[key] for _, key in kept], dtype=bool),
    )


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
    """The profile of some numbers around the first wrong step; None where no program has a wrong step.

    Args:
      rows: steps with truth.
      title: of the panel.
      quantity: what the numbers are.
      label: ``arm`` names columns as training arms, anything else is put after the column's name.
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
        {name: arm_label(name) if label == "arm" else f"{name} {label}" for name in rows.numbers},
    )
