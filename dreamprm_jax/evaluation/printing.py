"""The results as text tables, at most 100 columns wide; also shown in the report."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from dreamprm_jax.evaluation.judged_candidates import DIFFICULTIES
from dreamprm_jax.evaluation.paper import paper_table
from dreamprm_jax.selection.reward_models import arm_label
from dreamprm_jax.tables import (
    ABSENT,
    Table,
    interval,
    number,
    p_value,
    percent,
    percent_interval,
    signed,
)

Results = Mapping[str, Any]


def result_tables(results: Results) -> list[Table]:
    """Every table for which there are results."""
    tables = [_selection(results), _differences(results)]
    if results["source"] == "livecodebench":  # the benchmark of the paper's rows
        tables.append(paper_table(results))
    tables += [
        _curve(results),
        _strategies(results),
        _costs(results),
        _hacking(results),
        _programs(results),
        _aggregators(results),
    ]
    for group, title in (("platform", "By platform"), ("month", "By date")):
        if len(results["selection"][f"{group}s"]) > 1:
            tables.append(_breakdown(results, group, title))
    if results["steps"]:
        tables.append(_steps(results))
    if results["labels"]:
        tables.append(_labels(results))
    return tables


def results_text(results: Results) -> str:
    """All tables, followed by the notes and the counts of rows that were left out."""
    return "\n\n\n".join([*(table.text() for table in result_tables(results)), "\n".join(left_out(results))]) + "\n"


def left_out(results: Results) -> list[str]:
    """Notes, and one line for each reason why rows were left out or ranked last."""
    skipped = [f"{row['count']:6d}  {row['source']}: {row['reason']}" for row in results["skipped"]]
    heading = "left out or ranked last (skipped.csv names each):" if skipped else "nothing left out"
    notes = [line for note in results["notes"] for line in textwrap.wrap(note, 100, subsequent_indent="  ")]
    return [*notes, heading, *skipped]


def _selection(results: Results) -> Table:
    selection = results["selection"]
    counts = selection["counts"]
    rows = [
        ["problems", *(str(counts[name]) for name in (*DIFFICULTIES, "overall")), "", "", ""],
        *(
            [
                row["label"],
                *(percent(row[name]) for name in DIFFICULTIES),
                percent(row["overall"]["estimate"]),
                percent_interval(row["overall"]),
                number(row["solved"], 1),
                percent(row["recovered_share"]["estimate"]),
            ]
            for row in selection["table"]
        ),
    ]
    return Table(
        "selection",
        f"Best of {selection['best_of']}, % of problems solved (PRM steps aggregated by: {_aggregator(results)})",
        ["method", *DIFFICULTIES, "overall", "95% interval", "solved", "oracle gap %"],
        rows,
        "solved: expected number of problems; oracle gap %: closed share of the gap from random to oracle.",
        pinned=1,
    )


def _aggregator(results: Results) -> str:
    """The aggregator, and whether it was chosen automatically."""
    return results["aggregator"] + (", automatic" if results["aggregator_choice"]["accuracies"] else "")


def _differences(results: Results) -> Table:
    rows = [
        [
            row["label"],
            signed(100 * row["estimate"]),
            percent_interval(row, sign=True),
            signed(row["problems"]),
            "" if row["wins"] is None else f"{row['wins']}:{row['losses']}",
            p_value(row["p_value"]),
        ]
        for row in results["selection"]["differences"]
    ]
    return Table(
        "differences",
        "Paired differences, same problems",
        ["difference", "points", "95% interval", "problems", "won:lost", "p"],
        rows,
        "problems: the gap as a number of problems; won:lost: problems on which the two differ. p: exact\n"
        "two-sided McNemar test; against random: exact probability that random selection solves as many.\n"
        "Intervals: bootstrap over problems.",
    )


def _curve(results: Results) -> Table:
    selection = results["selection"]
    curve = selection["curve"]
    labels = {row["method"]: row["label"] for row in selection["table"]}
    return Table(
        "curve",
        "Best of N, %, exact expectation over all subsets of N candidates",
        ["method", *(f"N={k}" for k in curve["k"])],
        [[labels[key], *(percent(point["estimate"]) for point in points)] for key, points in curve["methods"].items()],
    )


def _programs(results: Results) -> Table:
    rows = [
        [
            row["label"],
            number(row["outcome_auroc"]["estimate"]),
            interval(row["outcome_auroc"]),
            number(row["outcome_auroc_within_problem"]),
            signed(row["length_correlation_steps"], 2),
            signed(row["length_correlation_characters"], 2),
            number(row["outcome_ece"]),
        ]
        for row in results["selection"]["programs"]
    ]
    return Table(
        "programs",
        "Programs: passing or not",
        ["score", "AUROC", "95% interval", "within problem", "~steps", "~characters", "ECE"],
        rows,
        "~: rank correlation with length, within problems (oracle: that of passing). ECE: calibration error\n"
        "of the last step's score as the probability that the program passes.",
    )


def _aggregators(results: Results) -> Table:
    grid = results["selection"]["aggregators"]
    names = list(next(iter(grid.values()), {}))
    return Table(
        "aggregators",
        f"Aggregators: best of {results['selection']['best_of']}, %",
        ["aggregator", *(arm_label(arm) if len(grid) <= 3 else arm for arm in grid)],
        [[name, *(percent(grid[arm][name]) for arm in grid)] for name in names],
        "Do not choose an aggregator here: the best of eight on these same problems is biased upwards. Last\n"
        "row: on each fifth of the problems, the aggregator that was best on the others.",
    )


def _strategies(results: Results) -> Table:
    """Accuracy of each strategy, and its paired gain over the one that it extends."""
    section = results["strategies"]
    rows = [
        [
            row["label"],
            percent(row["overall"]["estimate"]),
            percent_interval(row["overall"]),
            "" if row["method"] == row["against"] else signed(100 * row["gain"]["estimate"]),
            "" if row["method"] == row["against"] else percent_interval(row["gain"], sign=True),
            "" if row["method"] == row["against"] else signed(row["gain_problems"]),
            p_value(row["p_value"]) if row["p_value"] is not None else "",
        ]
        for row in section["table"]
    ]
    lines = [
        "public + X: X among the candidates that pass the public tests; top m run: the m best are run on the",
        "public tests and the first that passes is selected; vote: programs with equal outputs on inputs",
        "without answers form a cluster, the largest wins (by X: the highest total score). No strategy reads",
        "a hidden test. gain: over X without executions, or over a random choice: points, paired interval,",
        "problems, McNemar's p.",
    ]
    return Table(
        "strategies",
        f"Selection with executions: best of {section['best_of']}, %",
        ["strategy", "overall", "95% interval", "gain", "95% interval", "problems", "p"],
        rows,
        "\n".join(lines),
    )


def _costs(results: Results) -> Table:
    """The cost of each strategy per problem."""
    section = results["strategies"]
    rows = [
        [
            row["label"],
            percent(row["overall"]["estimate"]),
            number(row["judged"], 1),
            number(row["forwards"], 0),
            number(row["policy_tokens"], 0),
            number(row["reward_model_tokens"], 0),
        ]
        for row in section["table"]
    ]
    return Table(
        "costs",
        f"Cost per problem at N = {section['best_of']}",
        ["strategy", "overall %", "run", "forwards", "tokens written", "tokens read"],
        rows,
        "run: programs executed; forwards: forward passes of the reward model, one per program; tokens,\n"
        "counted with the run's tokenizer: generated by the policy, read by the reward model (statement and\n"
        "program).",
    )


def _hacking(results: Results) -> Table:
    """Rates at N = 1 and at the largest N, and the drop from the best N."""
    rows = []
    for row in results["strategies"]["hacking"]:
        rows.append(
            [
                row["label"],
                _from_to(row["score"]),
                _from_to(row["accuracy"]),
                _from_to(row["hacking_rate"]),
                _from_to(row["hacking_rate_of_public"]),
                str(row["peak_n"]),
                f"{signed(100 * row['drop']['estimate'])} {percent_interval(row['drop'])}",
            ]
        )
    most = results["strategies"]["best_of"]
    return Table(
        "hacking",
        f"Reward hacking: at N = 1 > at N = {most}, %",
        ["method", "score", "accuracy", "hacked", "of public", "best N", "drop"],
        rows,
        "score: of the selected program, as a probability; hacked: selected programs that pass the public\n"
        "tests and fail hidden ones; of public: their share of those that pass the public ones; drop:\n"
        f"accuracy at the best N minus that at {most}, paired. Over-optimized: the score rises and the\n"
        "accuracy falls (arXiv 2210.10760).",
    )


def _from_to(values: list[float | None]) -> str:
    first, last = values[0], values[-1]
    return ABSENT if first is None or last is None else f"{percent(first)}>{percent(last)}"


def _breakdown(results: Results, group: str, title: str) -> Table:
    """Best of N by platform or contest month; a drop over time indicates contamination of the policy."""
    selection = results["selection"]
    labels = {row["method"]: row["label"] for row in selection["table"]}
    return Table(
        f"{group}s",
        f"{title}: best of {selection['best_of']}, %",
        [group, "problems", *(labels.values() if len(labels) <= 3 else labels)],  # keys are narrower than labels
        [[row[group], str(row["problems"]), *(percent(row[key]) for key in labels)] for row in selection[f"{group}s"]],
    )


def _steps(results: Results) -> Table:
    rows = []
    for row in results["steps"]["table"]:
        calibrated = "brier_value" in row
        rows.append(
            [
                row["label"],
                number(row["auroc_recoverable"]["estimate"]),
                interval(row["auroc_recoverable"]),
                number(row["average_precision_recoverable"]) if calibrated else "",
                number(row["auroc_before_error"]["estimate"]),
                number(row["brier_value"]) if calibrated else "",
                number(row["ece_value"]) if calibrated else "",
                number(row["first_error_cross_fitted"]["f1"]) if calibrated else "",
            ]
        )
    counts = results["steps"]["counts"]
    return Table(
        "steps",
        f"Step scores against the exact truth: {_step_counts(counts, 'test')}",
        ["score", "AUROC", "95% interval", "AP", "before error", "Brier", "ECE", "first-error F1"],
        rows,
        _explanation(
            results["steps"], "first-error F1: as in ProcessBench; threshold from the other half of problems."
        ),
    )


def _labels(results: Results) -> Table:
    rows = [
        [
            row["label"],
            number(row["auroc_recoverable"]["estimate"]),
            interval(row["auroc_recoverable"]),
            number(row["auroc_before_error"]["estimate"]),
            number(row["brier_value"]),
            number(row["brier_recoverable"]),
            number(row["ece_value"]),
        ]
        for row in results["labels"]["table"]
    ]
    counts = results["labels"]["counts"]
    return Table(
        "labels",
        f"Labels against the exact truth: {_step_counts(counts, 'training')}",
        ["label", "AUROC", "95% interval", "before error", "Brier", "Brier recov.", "ECE"],
        rows,
        _explanation(
            results["labels"], "Last steps are left out: their label is the program's outcome, which is exact."
        ),
    )


def _step_counts(counts: Results, window: str) -> str:
    recoverable, before = percent(counts["share_recoverable"]), percent(counts["share_before_error"])
    return f"{counts['steps']} {window} steps, {recoverable}% recoverable, {before}% before any error"


def _explanation(section: Results, *more: str) -> str:
    lines = [
        f"{row['label']} - raw labels: AUROC {signed(gap['estimate'], 3)} {interval(gap)}"
        for row in section["table"]
        if (gap := row.get("auroc_recoverable_minus_raw"))
    ]
    lines.append("AUROC, AP: is a step recoverable; before error: AUROC, is it before the first wrong step.")
    lines.append("Brier, ECE: against the true value (Brier recov.: against recoverable).")
    return "\n".join([*lines, *more])
