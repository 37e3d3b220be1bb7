"""Families of comparisons (research/comparisons.md): paired t-tests over seeds with Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from research.study.results import Row
from research.study.tables import Difference, difference, paired_values

LEVEL = 0.05


@dataclass(frozen=True)
class Member:
    """One comparison of a family: the difference between figures of two arms in one regime."""

    regime: str
    arm: str
    figure: str
    baseline: str
    baseline_figure: str = ""  # figure of the baseline; empty: the same figure


@dataclass(frozen=True)
class Tested:
    """A comparison with its p-value, corrected over the family; NaN with fewer than two seeds."""

    difference: Difference
    p: float

    @property
    def certain(self) -> bool:
        """Whether the corrected p-value is below LEVEL."""
        return self.p < LEVEL

    def text(self) -> str:
        """The difference with its interval, in bold if ``certain``."""
        return f"**{self.difference.text()}**" if self.certain else self.difference.text()


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, to be compared with a family-wise level.

    Args:
      p: p-values of all members of a family. NaN counts as a member and stays NaN.
    """
    values = np.asarray(p, float)
    order = np.argsort(np.where(np.isnan(values), np.inf, values))
    corrected, highest = values.copy(), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(values) - rank) * values[index]) if not np.isnan(values[index]) else highest
        corrected[index] = np.nan if np.isnan(values[index]) else min(highest, 1.0)
    return corrected.tolist()


def family(rows: Sequence[Row], members: Sequence[Member]) -> list[Tested]:
    """Every member with its uncorrected interval and its corrected p-value (two-sided, paired by seed)."""
    differences, p = [], []
    for one in members:
        values = paired_values(
            rows, one.regime, (one.arm, one.figure), (one.baseline, one.baseline_figure or one.figure)
        )
        differences.append(difference(values))
        p.append(float(stats.ttest_1samp(values, 0.0).pvalue) if len(values) > 1 and np.ptp(values) else np.nan)
    return [Tested(found, value) for found, value in zip(differences, holm(p), strict=True)]
