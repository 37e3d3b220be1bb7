"""The report's figures. Imported only by the report, because importing matplotlib takes a second.

Figures are made without pyplot (no global state), keep text as text, and are byte-identical for the same data: no date,
ids from a fixed salt. ``inline`` converts a figure to SVG in the page's text color, readable on light and dark pages.
The colors are color-blind safe, and each method has its own marker.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamprm_jax.evaluation.ranking import ORACLE, RANDOM
from dreamprm_jax.selection.reward_models import short_label

INK, PAPER, GRID = "#1b1f28", "#fefefe", "#8b93a3"
GOOD, BAD = "#2b83ba", "#d1571b"
ARM_STYLES = {"orm": ("#b5651d", "s"), "raw": ("#3b82c4", "o"), "corrected": ("#c2417c", "D")}
OTHER_STYLES = [
    ("#5b8c3a", "^"),
    ("#8064a8", "v"),
    ("#2a9d8f", "P"),
    ("#a08a2c", "X"),
    ("#6b7a8f", "<"),
    ("#d17a8f", ">"),
]
SETTINGS: Any = {
    "svg.hashsalt": "dreamprm_jax",
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def style(method: str, arms: Sequence[str]) -> tuple[str, str]:
    """Color and marker of a method."""
    if method in (RANDOM, ORACLE):
        return (GRID, "") if method == RANDOM else (INK, "")
    others = [arm for arm in arms if arm not in ARM_STYLES]
    place = others.index(method) if method in others else len(others)
    return ARM_STYLES.get(method) or OTHER_STYLES[place % len(OTHER_STYLES)]


def panel_figure(panels: int, height: float = 3.5, width: float = 9.0) -> tuple[Figure, list[Axes]]:
    """A row of panels with a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0].tolist()
    for one in axes:
        one.grid(True)
        one.set_axisbelow(True)
    return figure, axes


def panel_grid(panels: int, legend: bool = False, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Panels in rows of three; unused cells are empty."""
    rows = -(-panels // 3)
    figure = Figure(figsize=(9.0, height * rows + 0.4 * legend), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
    for one in axes[:panels]:
        one.grid(True)
        one.set_axisbelow(True)
    for one in axes[panels:]:
        one.axis("off")
    return figure, axes[:panels]


def add_legend(axes: Axes) -> None:
    """A legend inside the axes if there are few curves, below them otherwise."""
    entries = len(axes.get_legend_handles_labels()[1])
    if entries <= 5:
        axes.legend(loc="best")
    elif isinstance(figure := axes.figure, Figure):
        columns = 1 if len(figure.axes) > 1 else 2
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-entries // columns))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns)


def best_of_n_curve(results: Mapping[str, Any]) -> Figure:
    """Share of problems solved by the best of N candidates, with 95% bands for the arms."""
    with matplotlib.rc_context(SETTINGS):
        figure, (axes,) = panel_figure(1, height=3.9, width=7.2)
        selection = results["selection"]
        ks = selection["curve"]["k"]
        labels = {row["method"]: row["label"] for row in selection["table"]}
        for method, points in selection["curve"]["methods"].items():
            color, marker = style(method, results["arms"])
            values = [100 * point["estimate"] for point in points]
            dashes = "--" if method in (RANDOM, ORACLE) else "-"
            axes.plot(ks, values, dashes, color=color, marker=marker, markersize=5, label=labels[method], linewidth=1.7)
            if method in results["arms"] and points[0]["low"] is not None:
                low, high = ([100 * point[end] for point in points] for end in ("low", "high"))
                axes.fill_between(ks, low, high, color=color, alpha=0.13, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("N, candidates to choose from")
        axes.set_ylabel("problems solved, %")
        add_legend(axes)
        return figure


def reliability(results: Mapping[str, Any]) -> Figure:
    """Mean target in bins of the score: the true value of a step or, if unknown, the outcome of a program."""
    if results["steps"]:
        rows = [row for row in results["steps"]["table"] if "reliability" in row]
        curves = {row["key"]: row["reliability"] for row in rows}
        names = ("step score", "true value of the step")
    else:
        curves = {row["method"]: row["outcome_reliability"] for row in results["selection"]["programs"]}
        names = ("last step's score", "share of programs that pass")
    curves = {arm: bins for arm, bins in curves.items() if arm in results["arms"] and bins}
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_grid(max(1, len(curves)), height=3.2)
        for axes, (arm, bins) in zip(panels, curves.items(), strict=False):
            color, marker = style(arm, results["arms"])
            counts = np.array([one["count"] for one in bins])
            scores, targets = ([one[name] for one in bins] for name in ("mean_score", "mean_target"))
            axes.plot([0, 1], [0, 1], "--", color=GRID, linewidth=1)
            axes.plot(scores, targets, color=color, linewidth=1.5)
            axes.scatter(scores, targets, s=12 + 160 * counts / counts.max(), color=color, marker=marker, alpha=0.8)
            axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel=names[0], title=short_label(arm))
            axes.set_aspect("equal")
        for axes in panels[::3]:
            axes.set_ylabel(names[1])
        return figure


# ---------------------------------------------------------------- output


def svg(figure: Figure) -> str:
    """SVG text, the same for the same data."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "dreamprm_jax"})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """PNG bytes, the same for the same data."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": "dreamprm_jax"})
    return buffer.getvalue()


def inline(text: str, name: str) -> str:
    """SVG for the page: in its text color, without background, XML prologue and metadata, with unique ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(PAPER, "none")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
