"""The plots of a study: every arm's paired difference from the baseline in each regime."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from dreamprm_jax.evaluation.report.plots import GRID, INK, SETTINGS
from research.study.results import Row
from research.study.tables import MODEL_COLUMNS, paired

MOST_ARMS = 16  # plots show only the best arms; tables have all


def differences(rows: Sequence[Row], baseline: str, figure: str = "step_auroc") -> Figure:
    """One panel per regime: paired differences over seeds with their 95% intervals, best arm on top."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm != baseline]
    known = {(regime, arm): paired(rows, regime, arm, baseline, figure) for regime in regimes for arm in arms}

    def overall(arm: str) -> float:
        values = [known[regime, arm].mean for regime in regimes if known[regime, arm].seeds]
        return sum(values) / max(len(values), 1)

    arms = sorted((arm for arm in arms if any(known[regime, arm].seeds for regime in regimes)), key=overall)[
        -MOST_ARMS:
    ]
    with matplotlib.rc_context(SETTINGS):
        columns = min(len(regimes), 4)
        lines = -(-len(regimes) // columns)
        drawing = Figure(figsize=(2.6 * columns + 2.6, (0.26 * len(arms) + 0.9) * lines), layout="constrained")
        panels = drawing.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, regime in zip(panels, regimes, strict=False):
            axes.axvline(0, color=GRID, linewidth=1.5, zorder=0)
            for place, arm in enumerate(arms):
                one = known[regime, arm]
                if one.seeds > 1:
                    axes.plot([one.low, one.high], [place, place], color=INK, linewidth=1.5)
                if one.seeds:
                    axes.plot(one.mean, place, "o", color=INK, markersize=4)
            axes.set_title(regime)
        for axes in panels[len(regimes) :]:
            axes.set_visible(False)
        for axes in panels[: len(regimes)]:
            axes.set_yticks(range(len(arms)), arms)
        drawing.supxlabel(f"{MODEL_COLUMNS[figure]}, difference from {baseline}")
    return drawing
