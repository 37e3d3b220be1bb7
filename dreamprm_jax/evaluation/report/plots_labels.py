"""The report's figures of labels: before and after correction, around the first error, over training."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dreamprm_jax.evaluation.report.label_data import LabelPlot, StepProfile, TrainingCurve
from dreamprm_jax.evaluation.report.plots import (
    ARM_STYLES,
    BAD,
    GOOD,
    GRID,
    INK,
    SETTINGS,
    add_legend,
    panel_figure,
    panel_grid,
    style,
)
from dreamprm_jax.selection.reward_models import short_label

MOST_ARMS = 4
"""Arms whose labels are drawn; further arms are only in the tables."""
MOST_POINTS = 1500
"""Maximum number of steps in a scatter panel, drawn at random, because the page contains every point."""


def labels_before_after(labels: LabelPlot) -> Figure:
    """Each arm's labels against the raw labels, and histograms of the raw labels and of each arm's labels.

    The points are colored by the truth if it is known.
    """
    groups = [group for group in _groups(labels.recoverable, len(labels.raw)) if group[3].any()]
    changed = dict(list(labels.changed.items())[:MOST_ARMS])
    columns = {"raw": labels.raw, **changed}
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_grid(len(changed) + len(columns), labels.recoverable is not None)
        rng = np.random.default_rng(0)
        jitter = rng.uniform(-0.03, 0.03, len(labels.raw))
        drawn = np.zeros(len(labels.raw), dtype=bool)
        drawn[rng.permutation(len(labels.raw))[:MOST_POINTS]] = True
        for axes, (name, values) in zip(panels, changed.items(), strict=False):
            axes.plot([0, 1], [0, 1], "--", color=GRID, linewidth=1)
            for _, color, marker, group in groups:
                inside = group & drawn
                axes.scatter(
                    (labels.raw + jitter)[inside],
                    values[inside],
                    s=9,
                    color=color,
                    marker=marker,
                    alpha=0.4,
                    linewidths=0,
                )
            axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel="raw label", ylabel="label")
            axes.set_title(f"{name.replace('_', ' ')}, each step")
        histograms = panels[len(changed) : len(changed) + len(columns)]
        for axes, (name, values) in zip(histograms, columns.items(), strict=True):
            axes.hist(
                [values[inside] for *_, inside in groups],
                bins=np.linspace(0, 1, 18).tolist(),
                stacked=True,
                color=[color for _, color, _, _ in groups],
                label=[label for label, *_ in groups],
                alpha=0.85,
            )
            axes.set(xlabel="label", ylabel="steps")
            axes.set_title(f"{name.replace('_', ' ')} labels")
        top = max(axes.get_ylim()[1] for axes in histograms)
        for axes in histograms:
            axes.set_ylim(0, top)
        if labels.recoverable is not None:
            handles, names = histograms[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=2)
        return figure


def _groups(recoverable: np.ndarray | None, count: int) -> list[tuple[str, str, str, np.ndarray]]:
    if recoverable is None:
        return [("steps", ARM_STYLES["raw"][0], "o", np.ones(count, dtype=bool))]
    return [("recoverable", GOOD, "o", recoverable), ("not recoverable", BAD, "v", ~recoverable)]


def step_profiles(profiles: Sequence[StepProfile]) -> Figure:
    """Mean label or score by distance from the program's first wrong step, with the true value."""
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_figure(len(profiles), height=3.4)
        for axes, profile in zip(panels, profiles, strict=True):
            axes.axvline(-0.5, color=GRID, linestyle=":", linewidth=1.2)
            axes.plot(profile.offsets, profile.truth, "--", color=INK, linewidth=1.5, label="true value")
            for name, means in profile.means.items():
                color, marker = style(name, list(profile.means))
                label = profile.labels[name]
                axes.plot(profile.offsets, means, color=color, marker=marker, markersize=4.5, label=label)
            axes.set_xticks(profile.offsets, [str(offset) if offset else "first\nwrong" for offset in profile.offsets])
            axes.set(ylim=(-0.03, 1.03), xlabel="steps from the first wrong step", ylabel=profile.quantity)
            axes.set_title(profile.title)
            add_legend(axes)
        return figure


def training_plot(curves: Sequence[TrainingCurve]) -> Figure:
    """One panel per quantity, one line per arm, over the optimizer steps."""
    arms = list(dict.fromkeys(arm for curve in curves for arm in curve.arms))
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_grid(len(curves))
        for axes, curve in zip(panels, curves, strict=True):
            for arm, (steps, values) in curve.arms.items():
                color, marker = style(arm, arms)
                label = short_label(arm)
                axes.plot(steps, values, color=color, marker=marker, markersize=3.5, linewidth=1.5, label=label)
            axes.set_title(curve.title)
            axes.set_xlabel("optimizer step")
            add_legend(axes)
        return figure
