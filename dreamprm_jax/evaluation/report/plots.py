"""The report's figures. Imported by the report alone: importing matplotlib takes a second.

Figures are made without pyplot (no global state), with text kept as text, and give the same bytes for the same data: no
date, ids from a fixed salt. ``inline`` turns one into SVG that takes the page's text colour, so that it reads on a
light and on a dark page. Colours are told apart by the colour-blind, and each method has a marker of its own.
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

from dreamprm_jax.evaluation.methods import ORACLE, RANDOM, arm_label
from dreamprm_jax.evaluation.report.label_data import LabelPlot, StepProfile

INK, PAPER, GRID = "#1b1f28", "#fefefe", "#8b93a3"
GOOD, BAD = "#2b83ba", "#d1571b"
ARM_STYLES = {"orm": ("#b5651d", "s"), "raw": ("#3b82c4", "o"), "corrected": ("#c2417c", "D")}
OTHER_STYLES = [("#5b8c3a", "^"), ("#8064a8", "v"), ("#4aa3a2", "P"), ("#a08a2c", "X")]
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
    """Colour and marker of a method."""
    if method in (RANDOM, ORACLE):
        return (GRID, "") if method == RANDOM else (INK, "")
    others = [arm for arm in arms if arm not in ARM_STYLES]
    return ARM_STYLES.get(method) or OTHER_STYLES[others.index(method) % len(OTHER_STYLES)]


def _figure(panels: int, height: float = 3.5, width: float = 9.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0].tolist()
    for one in axes:
        one.grid(True)
        one.set_axisbelow(True)
    return figure, axes


def best_of_n_curve(results: Mapping[str, Any]) -> Figure:
    """Share of problems solved by the best of N candidates, with 95% bands for the arms."""
    with matplotlib.rc_context(SETTINGS):
        figure, (axes,) = _figure(1, height=3.9, width=7.2)
        selection = results["selection"]
        ks = selection["curve"]["k"]
        labels = {row["method"]: row["label"] for row in selection["table"]}
        for method, points in selection["curve"]["methods"].items():
            colour, marker = style(method, results["arms"])
            values = [100 * point["estimate"] for point in points]
            dashes = "--" if method in (RANDOM, ORACLE) else "-"
            axes.plot(
                ks, values, dashes, color=colour, marker=marker, markersize=5, label=labels[method], linewidth=1.7
            )
            if method in results["arms"]:
                low, high = ([100 * point[end] for point in points] for end in ("low", "high"))
                axes.fill_between(ks, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("N, candidates to choose from")
        axes.set_ylabel("problems solved, %")
        axes.legend(loc="best")
        return figure


def reliability(results: Mapping[str, Any]) -> Figure:
    """Mean target in bins of the score: the true value of a step, or the outcome of a program where there is none."""
    if results["steps"]:
        rows = [row for row in results["steps"]["table"] if "reliability" in row]
        curves = {row["key"]: row["reliability"] for row in rows}
        names = ("step score", "true value of the step")
    else:
        curves = {row["method"]: row["outcome_reliability"] for row in results["selection"]["programs"]}
        names = ("last step's score", "share of programs that pass")
    curves = {arm: bins for arm, bins in curves.items() if arm in results["arms"] and bins}
    with matplotlib.rc_context(SETTINGS):
        figure, panels = _figure(max(1, len(curves)), height=3.3)
        for axes, (arm, bins) in zip(panels, curves.items(), strict=False):
            colour, marker = style(arm, results["arms"])
            counts = np.array([one["count"] for one in bins])
            scores, targets = ([one[name] for one in bins] for name in ("mean_score", "mean_target"))
            axes.plot([0, 1], [0, 1], "--", color=GRID, linewidth=1)
            axes.plot(scores, targets, color=colour, linewidth=1.5)
            axes.scatter(scores, targets, s=12 + 160 * counts / counts.max(), color=colour, marker=marker, alpha=0.8)
            axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel=names[0], title=arm_label(arm))
            axes.set_aspect("equal")
        panels[0].set_ylabel(names[1])
        return figure


def labels_before_after(labels: LabelPlot) -> Figure:
    """Raw against corrected labels, and the distribution of each, coloured by the truth where there is one."""
    groups = _groups(labels.recoverable, len(labels.raw))
    columns = {"raw": labels.raw} | ({} if labels.corrected is None else {"corrected": labels.corrected})
    with matplotlib.rc_context(SETTINGS):
        figure, panels = _figure(len(columns) + (labels.corrected is not None), height=3.4)
        if labels.corrected is not None:
            axes, *panels = panels
            jitter = np.random.default_rng(0).uniform(-0.03, 0.03, len(labels.raw))
            axes.plot([0, 1], [0, 1], "--", color=GRID, linewidth=1)
            for name, colour, marker, inside in groups:
                axes.scatter(
                    (labels.raw + jitter)[inside],
                    labels.corrected[inside],
                    s=9,
                    color=colour,
                    marker=marker,
                    alpha=0.4,
                    linewidths=0,
                    label=name,
                )
            axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel="raw label", ylabel="corrected label")
            axes.set_title("each step, before and after")
        for axes, (name, values) in zip(panels, columns.items(), strict=True):
            shown = [group for group in groups if group[3].any()]
            axes.hist(
                [values[inside] for *_, inside in shown],
                bins=np.linspace(0, 1, 18).tolist(),
                stacked=True,
                color=[colour for _, colour, _, _ in shown],
                label=[label for label, *_ in shown],
                alpha=0.85,
            )
            axes.set(xlabel=f"{name} label", ylabel="steps")
            axes.set_title(f"{name} labels")
        top = max(axes.get_ylim()[1] for axes in panels)
        for axes in panels:
            axes.set_ylim(0, top)
        if labels.recoverable is not None:
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=2)
        return figure


def _groups(recoverable: np.ndarray | None, count: int) -> list[tuple[str, str, str, np.ndarray]]:
    if recoverable is None:
        return [("steps", ARM_STYLES["raw"][0], "o", np.ones(count, dtype=bool))]
    return [("recoverable", GOOD, "o", recoverable), ("not recoverable", BAD, "v", ~recoverable)]


def step_profiles(profiles: Sequence[StepProfile]) -> Figure:
    """Mean label or score by distance from the program's first wrong step, with the true value."""
    with matplotlib.rc_context(SETTINGS):
        figure, panels = _figure(len(profiles), height=3.4)
        for axes, profile in zip(panels, profiles, strict=True):
            axes.axvline(-0.5, color=GRID, linestyle=":", linewidth=1.2)
            axes.plot(profile.offsets, profile.truth, "--", color=INK, linewidth=1.5, label="true value")
            for name, means in profile.means.items():
                colour, marker = style(name, list(profile.means))
                label = profile.labels[name]
                axes.plot(profile.offsets, means, color=colour, marker=marker, markersize=4.5, label=label)
            axes.set_xticks(profile.offsets, [str(offset) if offset else "first\nwrong" for offset in profile.offsets])
            axes.set(ylim=(-0.03, 1.03), xlabel="steps from the first wrong step", ylabel=profile.quantity)
            axes.set_title(profile.title)
            axes.legend(loc="best")
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
    """SVG for the page: its text colour, no background, ids of its own, no XML prologue, no metadata."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(PAPER, "none")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
