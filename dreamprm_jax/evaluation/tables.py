"""The results as plain text, readable in 100 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamprm_jax.evaluation.candidates import DIFFICULTIES
from dreamprm_jax.evaluation.text_table import (
    interval,
    number,
    p_value,
    percent,
    percent_interval,
    signed,
    text_table,
)

Results = Mapping[str, Any]


def results_text(results: Results) -> str:
    """Every table of ``results.json``, then the notes and the counts of what was left out."""
    parts = [_selection(results), _differences(results), _curve(results), _programs(results)]
    if results["steps"]:
        parts.append(_steps(results))
    if results["labels"]:
        parts.append(_labels(results))
    parts.append(_notes(results))
    return "\n\n".join(parts) + "\n"


def _selection(results: Results) -> str:
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
    title = f"Best of {selection['best_of']}, % of problems solved (PRM steps aggregated by {results['aggregator']})"
    header = ["method", *DIFFICULTIES, "overall", "95% interval", "solved", "oracle gap %"]
    return f"{title}\n\n{text_table(header, rows)}"


def _differences(results: Results) -> str:
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
    header = ["paired difference", "points", "95% interval", "problems", "won:lost", "p"]
    explanation = (
        "p: McNemar, exact, two-sided; against random: chance that random selection solves as many, exact.\n"
        "won:lost: problems on which the two differ. Intervals: bootstrap over problems."
    )
    return f"{text_table(header, rows)}\n\n{explanation}"


def _curve(results: Results) -> str:
    selection = results["selection"]
    curve = selection["curve"]
    labels = {row["method"]: row["label"] for row in selection["table"]}
    rows = [
        [labels[key], *(percent(point["estimate"]) for point in points)] for key, points in curve["methods"].items()
    ]
    header = ["best of N, exact over all subsets, %", *(f"N={k}" for k in curve["k"])]
    return text_table(header, rows)


def _programs(results: Results) -> str:
    rows = [
        [
            row["label"],
            number(row["outcome_auroc"]["estimate"]),
            interval(row["outcome_auroc"]),
            number(row["outcome_auroc_within_problem"]),
            signed(row["length_correlation_steps"], 2),
            signed(row["length_correlation_characters"], 2),
        ]
        for row in results["selection"]["programs"]
    ]
    header = ["programs: passing or not", "AUROC", "95% interval", "within problem", "~steps", "~characters"]
    explanation = "~: rank correlation of the score with length, within problems (oracle: of passing itself)."
    return f"{text_table(header, rows)}\n\n{explanation}"


def _steps(results: Results) -> str:
    rows = []
    for row in results["steps"]["table"]:
        calibrated = "brier_value" in row
        rows.append(
            [
                row["label"],
                number(row["auroc_recoverable"]["estimate"]),
                interval(row["auroc_recoverable"]),
                number(row["auroc_before_error"]["estimate"]),
                number(row["brier_value"]) if calibrated else "",
                number(row["ece_value"]) if calibrated else "",
                number(row["first_error_cross_fitted"]["f1"]) if calibrated else "",
            ]
        )
    counts = results["steps"]["counts"]
    header = ["step scores", "AUROC", "95% interval", "before error", "Brier", "ECE", "first-error F1"]
    title = f"Exact truth of {counts['steps']} test steps, {percent(counts['share_recoverable'])}% recoverable"
    return f"{title}\n\n{text_table(header, rows)}\n\n{_gaps(results['steps'])}"


def _labels(results: Results) -> str:
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
    header = ["training labels", "AUROC", "95% interval", "before error", "Brier", "Brier recov.", "ECE"]
    title = f"Exact truth of {counts['steps']} training steps, {percent(counts['share_recoverable'])}% recoverable"
    return f"{title}\n\n{text_table(header, rows)}\n\n{_gaps(results['labels'])}"


def _gaps(section: Results) -> str:
    lines = [
        f"{row['label']} - raw: AUROC {signed(gap['estimate'], 3)} {interval(gap)}"
        for row in section["table"]
        if (gap := row.get("auroc_recoverable_minus_raw"))
    ]
    lines.append("AUROC: step recoverable or not; before error: up to the first wrong step or not; Brier, ECE: value.")
    return "\n".join(lines)


def _notes(results: Results) -> str:
    skipped = [f"{row['count']:6d}  {row['source']}: {row['reason']}" for row in results["skipped"]]
    lines = [*results["notes"], "left out or ranked last, by name in skipped.csv:" if skipped else "nothing left out"]
    return "\n".join(lines + skipped)
