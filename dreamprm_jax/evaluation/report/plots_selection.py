"""The report's figures of selection: cost, aggregators, reward hacking."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dreamprm_jax.evaluation.ranking import ORACLE, RANDOM
from dreamprm_jax.evaluation.report.plots import GRID, INK, PAPER, SETTINGS, add_legend, panel_figure, style
from dreamprm_jax.selection.reward_models import short_label

BASELINES = {
    "public": ("#7a6a52", "*"),
    "vote": ("#4a4e69", "p"),
    "public_vote": ("#99582a", "h"),
    "logprob": (GRID, "+"),
}
"""Strategies without a reward model."""


def cost_curve(results: Mapping[str, Any]) -> Figure | None:
    """Accuracy by programs run (prune-then-execute, filter, votes) and by tokens generated (N); None without either."""
    section = results["strategies"]
    rows = section["curve"]
    has_tokens = any(row["policy_tokens"] is not None for row in rows)
    if not section["prune"] and not has_tokens:
        return None
    arms = results["arms"]
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_figure(bool(section["prune"]) + has_tokens, height=4.2, width=9.4)
        if section["prune"]:
            axes = panels[0]
            for arm, points in section["prune"].items():
                color, marker = style(arm, arms)
                values = [100 * point["accuracy"] for point in points]
                runs = [point["judged"] for point in points]
                axes.plot(runs, values, color=color, marker=marker, markersize=4.5, label=short_label(arm))
            most = section["best_of"]
            for row in (row for row in rows if row["n"] == most and row["method"] in BASELINES):
                color, marker = BASELINES[row["method"]]
                axes.scatter(row["judged"], 100 * row["accuracy"], color=color, marker=marker, s=70, label=row["label"])
            axes.set(xlabel="programs run per problem", ylabel="problems solved, %")
            axes.set_title("top m by the model, run on public tests")
            add_legend(axes)
        if has_tokens:
            axes = panels[-1]
            for method in [*arms, *BASELINES]:
                points = [row for row in rows if row["method"] == method]
                if not points:
                    continue
                color, marker = BASELINES.get(method) or style(method, arms)
                tokens = [row["policy_tokens"] for row in points]
                values = [100 * row["accuracy"] for row in points]
                label = short_label(method) if method in arms else points[0]["label"]
                axes.plot(tokens, values, color=color, marker=marker, markersize=5, label=label)
            axes.set_xscale("log", base=2)
            ticks = sorted({row["policy_tokens"] for row in rows})
            axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
            axes.minorticks_off()
            axes.set(xlabel="tokens generated per problem", ylabel="problems solved, %")
            axes.set_title("candidates")
            add_legend(axes)
        return figure


def aggregator_grid(results: Mapping[str, Any]) -> Figure | None:
    """Best-of-N accuracy of every arm under every aggregator, as colored cells; None without arms."""
    grid = results["selection"]["aggregators"]
    if not grid:
        return None
    names = list(next(iter(grid.values())))
    shares = [[grid[arm][name] for name in names] for arm in grid]
    values = 100 * np.array([[np.nan if share is None else share for share in row] for row in shares], dtype=float)
    if not np.isfinite(values).any():
        return None
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.0, 1.5 + 0.42 * len(grid)), layout="constrained")
        axes = figure.subplots()
        # Not an image: the page's content security policy forbids images.
        axes.pcolormesh(values, cmap="cividis", edgecolors=PAPER, linewidth=2)
        axes.invert_yaxis()
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for row, column in np.ndindex(*values.shape):
            if np.isfinite(values[row, column]):
                ink = "#ffffff" if values[row, column] < middle else "#000000"
                text = f"{values[row, column]:.1f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=9)
        axes.set_xticks(np.arange(len(names)) + 0.5, [_broken(name) for name in names])
        axes.set_yticks(np.arange(len(grid)) + 0.5, [short_label(arm) for arm in grid])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title("problems solved, %")
        return figure


def reward_hacking(results: Mapping[str, Any]) -> Figure:
    """Score and accuracy of the selected program, and the share that passes only the public tests, over N."""
    rows = results["strategies"]["hacking"]
    arms = results["arms"]
    scored = [row for row in rows if row["score"][0] is not None]
    hacked = [row for row in rows if row["hacking_rate"][0] is not None]
    with matplotlib.rc_context(SETTINGS):
        figure, panels = panel_figure(2 if hacked else 1, height=3.9, width=9.4)
        for row in scored:
            color, marker = style(row["method"], arms)
            name = short_label(row["method"])
            for quantity, values, dash in (("score", row["score"], ":"), ("solved", row["accuracy"], "-")):
                label = f"{name}, {quantity}"
                panels[0].plot(row["n"], _percent(values), dash, color=color, marker=marker, markersize=4, label=label)
        panels[0].set_title("score and accuracy of the selected program")
        for row in hacked:
            method = row["method"].removeprefix("public+")
            color, marker = style(method, arms) if method not in (RANDOM, ORACLE) else (INK, "")
            dash = "--" if row["method"].startswith("public+") else "-"
            rates = _percent(row["hacking_rate"])
            panels[1].plot(row["n"], rates, dash, color=color, marker=marker, markersize=4, label=row["label"])
        if hacked:
            panels[1].set_title("pass the public tests, fail hidden ones")
            panels[1].set_ylim(bottom=0)
        for axes in panels:
            axes.set_xscale("log", base=2)
            axes.set_xticks(rows[0]["n"], [str(n) for n in rows[0]["n"]])
            axes.minorticks_off()
            axes.set(xlabel="N, candidates to choose from", ylabel="%")
            if axes.get_legend_handles_labels()[0]:
                add_legend(axes)
        return figure


def _percent(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else 100 * value for value in values]


def _broken(name: str) -> str:
    """The name on lines of at most a dozen characters."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), 12))
