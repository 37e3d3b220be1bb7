"""The page of the report: tiles, tables, figures and the heat map in one self-contained HTML text."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dreamprm_jax import __version__
from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.printing import left_out, result_tables
from dreamprm_jax.evaluation.ranking import methods
from dreamprm_jax.evaluation.report.heatmap import heat_problems, json_for_script, viewer_data, visible
from dreamprm_jax.schema import StepTruth
from dreamprm_jax.tables import Table, flatten, number, percent, signed

HERE = Path(__file__).parent
PACKAGES = ("jax", "flax", "optax", "numpy", "pyarrow", "tokenizers", "matplotlib")


def render(
    config: Config,
    results: dict[str, Any],
    candidates: Sequence[Candidates],
    truth: Sequence[StepTruth] | None,
    figures: Mapping[str, Markup],
) -> tuple[str, dict[str, int]]:
    """The page, and counts of what is on it.

    Args:
      config: of the run.
      results: as in results.json.
      candidates: of the test window.
      truth: of the test window's steps, if it is known.
      figures: name -> SVG.
    """
    arms, aggregator, granularity = config.train.arms, results["aggregator"], config.label.granularity
    heat = heat_problems(candidates, arms, aggregator, truth, granularity=granularity)
    labels = [row["label"] for row in results["selection"]["programs"] if row["method"] in arms]
    viewer = viewer_data(candidates, arms, aggregator, truth, granularity)
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
    return page, {
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
    """Versions of this package, Python and the main dependencies, from metadata: nothing is imported."""
    versions = [("dreamprm_jax", __version__), ("python", platform.python_version())]
    for name in PACKAGES:
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            versions.append((name, "not installed"))
    return versions
