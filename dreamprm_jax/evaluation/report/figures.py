"""Draws the figures of the report and saves each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.report.label_data import label_plot, step_profile, training_curves
from dreamprm_jax.evaluation.step_results import label_rows, read_corrected, score_rows
from dreamprm_jax.labeling.exact_truth import load_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Skip, StepLabel, StepTruth
from dreamprm_jax.storage import atomic_path, read_records, write_text


def draw_figures(
    config: Config,
    paths: Paths,
    results: dict[str, Any],
    candidates: Sequence[Candidates],
    truth: Sequence[StepTruth] | None,
) -> dict[str, Markup]:
    """Draws each figure for which there is data, saves it next to the report, and returns its SVG for the page.

    ``candidates`` and ``truth`` are from the test window; ``truth`` is None if unknown.
    """
    from dreamprm_jax.evaluation.report import plots, plots_labels, plots_selection  # matplotlib takes a second

    skips: list[Skip] = []  # unused here: the evaluate stage has already reported these skips
    folder = paths.report().parent
    train_truth = load_truth(config, paths, "train") if truth is not None else None
    corrected = read_corrected(config, paths)
    labels = read_records(paths.step_labels(), StepLabel) if paths.step_labels().exists() else []
    figures = {
        "best_of_n": plots.best_of_n_curve(results),
        "reliability": plots.reliability(results),
        "hacking": plots_selection.reward_hacking(results),
    }
    if cost := plots_selection.cost_curve(results):
        figures["cost"] = cost
    if grid := plots_selection.aggregator_grid(results):
        figures["aggregators"] = grid
    shown = label_plot(labels, corrected, train_truth)
    if shown:
        figures["labels"] = plots_labels.labels_before_after(shown)
    if curves := training_curves(paths, config.train.arms):
        figures["training"] = plots_labels.training_plot(curves)
    if truth is not None and train_truth is not None:
        scored = score_rows(candidates, config.train.arms, truth, skips)
        labeled = label_rows(labels, corrected, train_truth, skips)
        profiles = [
            step_profile(labeled, "training labels", "mean label", "labels"),
            step_profile(scored, "test scores", "mean score", "arm"),
        ]
        if filled := [profile for profile in profiles if profile]:
            figures["trajectories"] = plots_labels.step_profiles(filled)
    inlined = {}
    for name, figure in figures.items():
        text = plots.svg(figure)
        figure.set_layout_engine("none")  # keep the layout: computing it again for the PNG is slow
        write_text(folder / f"{name}.svg", text)
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(plots.png(figure))
        inlined[name] = Markup(plots.inline(text, name))
    return inlined
