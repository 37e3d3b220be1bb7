"""The paper's results (arXiv 2512.15000, table 1) as counts, with intervals, which the paper does not report.

The test problems are those of LiveCodeBench from 2025-02-01 on. The last four rows use programs of o4-mini-high. The
counts are computed from the percentages for 31 easy, 39 medium and 61 hard problems; those of DeepSeek-R1 are means
over several samples. A run of this package has other problems and another policy, so compare the sizes of gaps and
intervals instead of accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dreamprm_jax.evaluation.judged_candidates import DIFFICULTIES
from dreamprm_jax.evaluation.ranking import ORACLE, RANDOM
from dreamprm_jax.metrics.statistics import wilson_interval
from dreamprm_jax.tables import Table, number, percent, percent_interval, signed

GROUPS = (31, 39, 61)
SOLVED: Mapping[str, tuple[float, float, float]] = {
    "Gemini-2.5": (31, 32, 32),
    "O3": (31, 28, 35),
    "DeepSeek-R1": (30.9, 30.3, 28.8),
    "o4-mini-high alone": (31, 35, 35),
    "ORM": (31, 35, 38),
    "PRM-CoF": (31, 36, 38),
    "DreamPRM-Code": (31, 36, 39),
}
ALONE = "o4-mini-high alone"
SELECTING = ("ORM", "PRM-CoF", "DreamPRM-Code")
"""Rows that select among the programs of ``ALONE``."""


def paper_table(results: Mapping[str, Any] | None = None) -> Table:
    """Easy, medium, hard and overall in percent, with 95% intervals and each gap as a number of problems.

    Args:
      results: Results of a run, whose rows are appended in the same format; None for the paper's rows alone.

    Returns:
      The paper's rows with Wilson intervals and the gap to its policy alone. The run's rows have bootstrap intervals
      and the gap to a random choice.
    """
    total = sum(GROUPS)
    rows = [["paper: problems", *(str(count) for count in GROUPS), str(total), "", "", ""]]
    for label, solved in SOLVED.items():
        groups = (percent(count / size) for count, size in zip(solved, GROUPS, strict=True))
        overall = wilson_interval(sum(solved), total)
        gap = signed(sum(solved) - sum(SOLVED[ALONE]), 0) if label in SELECTING else ""
        count = number(sum(solved), 0)
        rows.append([label, *groups, percent(overall.estimate), percent_interval(asdict(overall)), count, gap])
    lines = [f"The paper's last three rows differ by one problem each: {percent(1 / total)} points."]
    if results is not None:
        ours, problems = _run_rows(results)
        rows += ours
        lines.append(f"Here one problem is {percent(1 / problems)} points.")
    lines.append("Paper: LiveCodeBench from 2025-02-01 on; gaps to o4-mini-high alone. Other problems, other policy.")
    return Table(
        "paper",
        "In the paper's format, its rows first",
        ["method", "easy", "medium", "hard", "overall", "95% interval", "solved", "gap, problems"],
        rows,
        "\n".join(lines),
    )


def _run_rows(results: Mapping[str, Any]) -> tuple[list[list[str]], int]:
    selection = results["selection"]
    counts = selection["counts"]
    base = next(row["solved"] for row in selection["table"] if row["method"] == RANDOM)
    rows = [["here: problems", *(str(counts[name]) for name in (*DIFFICULTIES, "overall")), "", "", ""]]
    for row in selection["table"]:
        gap = "" if row["method"] in (RANDOM, ORACLE) else signed(row["solved"] - base)
        groups = (percent(row[name]) for name in DIFFICULTIES)
        overall = row["overall"]
        solved = number(row["solved"], 1)
        rows.append([row["label"], *groups, percent(overall["estimate"]), percent_interval(overall), solved, gap])
    return rows, counts["overall"]
