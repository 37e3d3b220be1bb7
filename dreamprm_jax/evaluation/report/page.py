"""The page of the report: conclusions, tables, figures and the programs in one self-contained HTML text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dreamprm_jax.config import Config, EvaluateConfig, to_dict
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.printing import left_out, result_tables
from dreamprm_jax.evaluation.ranking import methods
from dreamprm_jax.evaluation.report.conclusions import conclusions
from dreamprm_jax.evaluation.report.viewer import json_for_script, problem_titles, viewer_data, visible
from dreamprm_jax.runs.progress import duration
from dreamprm_jax.runs.status import StageStatus, run_status
from dreamprm_jax.schema import Outcome, StepTruth
from dreamprm_jax.storage import read_json
from dreamprm_jax.tables import LEAST_PROBLEMS, Table, flatten, number, percent, signed

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """Cost and versions of a run, from its folder."""

    costs: Table | None  # time and counts of each finished stage
    versions: list[tuple[str, str]]  # commit, command, packages


def run_facts(root: Path, prices: EvaluateConfig) -> RunFacts:
    """Reads the stages' markers and the recorded versions. ``prices`` has the prices of tokens."""
    recorded = read_json(root / "versions.json") if (root / "versions.json").exists() else {}
    versions = [(name, str(value)) for name, value in recorded.items()]
    if not (root / "config.json").exists():
        return RunFacts(None, versions)
    done = [stage for stage in run_status(root) if stage.seconds is not None]
    rows = [
        [
            stage.name,
            duration(stage.seconds or 0.0),
            ", ".join(f"{v:,} {k}" for k, v in (stage.counts | stage.spent).items()),
        ]
        for stage in done
    ]
    total = duration(sum(stage.seconds or 0.0 for stage in done))
    title = f"Time of the stages: {total} in total"
    note = "Of the last run of each stage; an interrupted stage took longer in total." + _price(done, prices)
    return RunFacts(Table("time", title, ["stage", "time", "what it wrote"], rows, note) if done else None, versions)


def _price(stages: Sequence[StageStatus], prices: EvaluateConfig) -> str:
    """A sentence with the cost of the policy's tokens; "" without prices."""
    if not prices.price_prompt and not prices.price_completion:
        return ""
    prompt, completion = (
        sum(stage.spent.get(f"{kind} tokens", 0) for stage in stages) for kind in ("prompt", "completion")
    )
    price = (prompt * prices.price_prompt + completion * prices.price_completion) / 1e6
    return (
        f" The policy's tokens cost {price:,.2f}: {prompt:,} prompt tokens at {prices.price_prompt:g} per million, and "
        f"{completion:,} completion tokens at {prices.price_completion:g}. Cached prompt tokens are counted in full."
    )


def render(
    config: Config,
    results: dict[str, Any],
    candidates: Sequence[Candidates],
    truth: Sequence[StepTruth] | None,
    figures: Mapping[str, Markup],
    outcomes: Mapping[str, Outcome],
    facts: RunFacts,
) -> tuple[str, dict[str, int]]:
    """Renders the page. Returns the page and counts of its contents.

    Args:
      config: Settings of the run.
      results: The contents of results.json.
      candidates: Candidates of the test window.
      truth: Truth of the test window's steps, if it is known.
      figures: Name -> SVG.
      outcomes: Verdicts by program hash.
      facts: Cost and versions of the run.
    """
    arms, aggregator = config.train.arms, results["aggregator"]
    labels = [row["label"] for row in results["selection"]["programs"] if row["method"] in arms]
    viewer = viewer_data(candidates, arms, aggregator, truth, outcomes, config.label.granularity)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {table.key: table for table in result_tables(results)}
    problems = _problem_table(candidates, arms, aggregator)
    page = environment.get_template("template.html").render(
        results=results,
        conclusions=conclusions(results),
        intervals=results["selection"]["counts"]["overall"] >= LEAST_PROBLEMS,
        least_problems=LEAST_PROBLEMS,
        tiles=_tiles(results),
        tables=tables,
        figures=figures,
        arms=labels,
        viewer=Markup(json_for_script({"arms": labels, "problems": viewer["problems"]})),
        viewer_left_out=viewer["left_out"],
        problems=problems,
        left_out=left_out(results),
        settings=sorted((name, str(value)) for name, value in flatten(_plain(to_dict(config))).items()),
        costs=facts.costs,
        versions=facts.versions,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
    )
    return page, {
        "tables": len(tables) + 1 + (facts.costs is not None),
        "plots": len(figures),
        "problems": len(problems.rows),
        "programs": sum(len(one["programs"]) for one in viewer["problems"]),
    }


def _plain(value: Any) -> Any:
    """Settings with lists as text, so that ``flatten`` keeps them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _tiles(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, explanation) of the figures at the top of the page."""
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
                (
                    label,
                    f"{overall}%",
                    f"{signed(100 * row['estimate'])} over random: {signed(row['problems'])} problems",
                )
            )
    tiles.append(("oracle", f"{percent(table['oracle']['overall']['estimate'])}%", f"pass@{selection['best_of']}"))
    return tiles


def _problem_table(candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str) -> Table:
    """One row per problem: the number of passing candidates, and whether the one that each arm selects passes."""
    chosen = methods(candidates, arms, aggregator)[1:-1]
    most = max(len(one.passed) for one in candidates)
    accuracies = [method.accuracies(candidates, most) for method in chosen]
    titles = problem_titles([one.problem for one in candidates])
    rows = [
        [
            visible(one.problem.problem_id, 200),
            titles[index],
            one.problem.difficulty,
            f"{int(one.passed.sum())}/{len(one.passed)}",
            *(number(float(values[index]), 2) for values in accuracies),
        ]
        for index, one in enumerate(candidates)
    ]
    return Table(
        "problems",
        "All problems",
        ["problem", "title", "difficulty", "passing", *(method.label for method in chosen)],
        rows,
        "1.00: the selected candidate passes; fractions if tied candidates differ. candidates.csv has every candidate.",
    )
