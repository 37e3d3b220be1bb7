"""The paper's own rows (arXiv 2512.15000, table 1), as counts, with the intervals that the paper does not give.

Test problems of LiveCodeBench from 2025-02-01 on, policy o4-mini-high. The counts follow from the percentages: 31 easy,
39 medium and 61 hard problems. Other problems and another policy than those of a run here: to compare sizes of gaps and
of intervals, not accuracies.
"""

from __future__ import annotations

from dataclasses import asdict

from dreamprm_jax.evaluation.statistics import wilson_interval
from dreamprm_jax.evaluation.tables import Table
from dreamprm_jax.evaluation.text_table import percent, percent_interval

GROUPS = (31, 39, 61)
SOLVED = {
    "o4-mini-high alone": (31, 35, 35),
    "ORM": (31, 35, 38),
    "PRM-CoF": (31, 36, 38),
    "DreamPRM-Code": (31, 36, 39),
}


def paper_table() -> Table:
    """Easy, medium, hard and overall in percent, with Wilson's 95% interval."""
    total = sum(GROUPS)
    rows = [["problems", *(str(count) for count in GROUPS), str(total), "", ""]]
    for label, solved in SOLVED.items():
        groups = (percent(count / size) for count, size in zip(solved, GROUPS, strict=True))
        overall = wilson_interval(sum(solved), total)
        rows.append([label, *groups, percent(overall.estimate), percent_interval(asdict(overall)), str(sum(solved))])
    return Table(
        "paper",
        "The paper's table, from counts",
        ["method", "easy", "medium", "hard", "overall", "95% interval", "solved"],
        rows,
        "LiveCodeBench from 2025-02-01 on, policy o4-mini-high. The last three rows differ by one problem each.",
        pinned=1,
    )
