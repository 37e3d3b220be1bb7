"""The report stage: results.json and the rows behind it -> one self-contained report.html, and the plots beside it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dreamprm_jax import __version__
from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.evaluation.candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.methods import methods
from dreamprm_jax.evaluation.report.heatmap import heat_problems, json_for_script, viewer_data, visible
from dreamprm_jax.evaluation.step_table import label_rows, score_rows
from dreamprm_jax.evaluation.tables import left_out, result_tables
from dreamprm_jax.evaluation.text_table import Table, flatten, number, percent, signed
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Skip, StepLabel
from dreamprm_jax.stages.evaluate import read_corrected
from dreamprm_jax.storage import atomic_path, read_json, read_records, write_text

HERE = Path(__file__).parents[1] / "evaluation" / "report"
PACKAGES = ("jax", "flax", "optax", "numpy", "pyarrow", "tokenizers", "matplotlib")


def report(config: Config, paths: Paths) -> dict[str, int]:
    """Builds the report of an evaluated run.

    The same files give the same bytes: no time stamps, fixed ids, fixed jitter.

    Returns:
      Counts of tables, plots, problems in the table and programs in the heat map.

    Raises:
      DataError: if the evaluate stage's results, or a file that it read, is missing.
    """
    results = read_json(paths.results())
    skips: list[Skip] = []  # the evaluate stage has reported them
    candidates, _ = load_candidates(paths, "test", config.train.arms)
    has_truth = why_no_truth(config) is None
    truth = load_truth(config, paths, "test") if has_truth else None
    arms, aggregator, granularity = config.train.arms, results["aggregator"], config.label.granularity
    heat = heat_problems(candidates, arms, aggregator, truth, granularity=granularity)
    labels = [row["label"] for row in results["selection"]["programs"] if row["method"] in arms]
    viewer = viewer_data(candidates, arms, aggregator, truth, granularity)
    folder = paths.report().parent
    figures = _plots(config, paths, results, candidates, skips, folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {table.key: table for table in result_tables(results)}
    problems = _problem_table(candidates, arms, aggregator, {one.problem_id for one in heat})
    page = environment.get_template("template.html").render(
        results=results,
        tiles=_tiles(results),
        tables=tables,
        figures=figures,
        heat=heat,
        arms=labels,
        viewer=Markup(json_for_script({"arms": labels, "problems": viewer["problems"]})),
        viewer_left_out=viewer["left_out"],
        problems=problems,
        left_out=left_out(results),
        settings=sorted((name, str(value)) for name, value in flatten(_plain(to_dict(config))).items()),
        versions=_versions(),
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
    )
    write_text(paths.report(), page)
    return {
        "tables": len(tables) + 1,
        "plots": len(figures),
        "problems": len(problems.rows),
        "heat_map_programs": sum(len(one.programs) for one in heat),
    }


def _plain(value: Any) -> Any:
    """Settings with lists as text, so that ``flatten`` keeps them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _plots(
    config: Config,
    paths: Paths,
    results: dict[str, Any],
    candidates: Sequence[Candidates],
    skips: list[Skip],
    folder: Path,
) -> dict[str, Markup]:
    """Draws every figure that there is data for, saves it as SVG and PNG, and returns it for the page."""
    from dreamprm_jax.evaluation.report import plots, plots_labels, plots_selection
    from dreamprm_jax.evaluation.report.label_data import label_plot, step_profile, training_curves

    has_truth = why_no_truth(config) is None
    train_truth = load_truth(config, paths, "train") if has_truth else None
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
        figures["training"] = plots_labels.training_curves(curves)
    if train_truth is not None:
        scored = score_rows(candidates, config.train.arms, load_truth(config, paths, "test"), skips)
        labelled = label_rows(labels, corrected, train_truth, skips)
        profiles = [
            step_profile(labelled, "training labels", "mean label", "labels"),
            step_profile(scored, "test scores", "mean score", "arm"),
        ]
        if filled := [profile for profile in profiles if profile]:
            figures["trajectories"] = plots_labels.step_profiles(filled)
    inlined = {}
    for name, figure in figures.items():
        text = plots.svg(figure)
        figure.set_layout_engine("none")  # it is laid out; once more for the PNG would take as long again
        write_text(folder / f"{name}.svg", text)
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(plots.png(figure))
        inlined[name] = Markup(plots.inline(text, name))
    return inlined


def _tiles(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, explanation) of the figures that come first."""
    selection = results["selection"]
    table = {row["method"]: row for row in selection["table"]}
    tiles = [
        ("problems", str(selection["counts"]["overall"]), f"up to {selection['best_of']} candidates each"),
        ("random", f"{percent(table['random']['overall']['estimate'])}%", "expected pass@1"),
    ]
    for row in selection["differences"]:
        if row["against"] == "random":
            label = table[row["method"]]["label"]
            overall = percent(table[row["method"]]["overall"]["estimate"])
            tiles.append(
                (label, f"{overall}%", f"{signed(100 * row['estimate'])} on random: {signed(row['problems'])} problems")
            )
    tiles.append(("oracle", f"{percent(table['oracle']['overall']['estimate'])}%", f"pass@{selection['best_of']}"))
    return tiles


def _problem_table(candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str, shown: set[str]) -> Table:
    """One row a problem: how many candidates pass, and whether each arm's pick does."""
    chosen = methods(candidates, arms, aggregator)[1:-1]
    most = max(len(one.passed) for one in candidates)
    accuracies = [method.accuracies(candidates, most) for method in chosen]
    rows = [
        [
            one.problem.problem_id,
            visible(one.problem.title, 80),
            one.problem.difficulty,
            f"{int(one.passed.sum())}/{len(one.passed)}",
            *(number(float(values[index]), 2) for values in accuracies),
            "below" if one.problem.problem_id in shown else "",
        ]
        for index, one in enumerate(candidates)
    ]
    return Table(
        "problems",
        "Problems",
        ["problem", "title", "difficulty", "passing", *(method.label for method in chosen), "code"],
        rows,
        "1.00: the pick passes; fractions where tied candidates differ. candidates.csv has every candidate.",
    )


def _versions() -> list[tuple[str, str]]:
    """This package, python, and what the run rests on. Read from metadata: nothing is imported."""
    versions = [("dreamprm_jax", __version__), ("python", platform.python_version())]
    for name in PACKAGES:
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            versions.append((name, "not installed"))
    return versions
