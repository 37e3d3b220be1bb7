"""Strategies, their costs and reward hacking as tables of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamprm_jax.evaluation.text_table import (
    ABSENT,
    Table,
    number,
    p_value,
    percent,
    percent_interval,
    signed,
)

Results = Mapping[str, Any]


def strategies_table(results: Results) -> Table:
    """Accuracy of each strategy, and the paired gain over what it extends."""
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
        "public + X: X among the candidates that pass the public tests; top m run: the m best are run on",
        "the public tests, the first pass is taken; vote: programs that print the same on inputs without",
        "answers form a cluster, the largest (by X: of the highest total) wins. None reads a hidden test.",
        "gain: over X without executions, or else over a random choice: points, paired interval, problems,",
        "McNemar's p.",
    ]
    return Table(
        "strategies",
        f"Selection with executions: best of {section['best_of']}, %",
        ["strategy", "overall", "95% interval", "gain", "95% interval", "problems", "p"],
        rows,
        "\n".join(lines),
    )


def costs_table(results: Results) -> Table:
    """What each strategy costs a problem."""
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
        f"Cost a problem at N = {section['best_of']}",
        ["strategy", "overall %", "run", "forwards", "tokens written", "tokens read"],
        rows,
        "run: programs executed; forwards: passes of the reward model, all steps of a program in one; tokens,\n"
        "of the run's tokenizer: written by the policy, read by the reward model (statement and program).",
    )


def hacking_table(results: Results) -> Table:
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
        "score: of the chosen program, as a probability; hacked: chosen programs that pass the public tests\n"
        "and fail hidden ones; of public: their share of those that pass the public ones; drop: accuracy at\n"
        f"the best N less that at {most}, paired. Over-optimised: score up, accuracy down (arXiv 2210.10760).",
    )


def _from_to(values: list[float | None]) -> str:
    first, last = values[0], values[-1]
    return ABSENT if first is None or last is None else f"{percent(first)}>{percent(last)}"


def months_table(results: Results) -> Table:
    """Best of N by month of the contest: a drop shows what a policy had seen before."""
    selection = results["selection"]
    labels = {row["method"]: row["label"] for row in selection["table"]}
    return Table(
        "months",
        f"By date: best of {selection['best_of']}, %",
        ["month", "problems", *(_short(key, label, len(labels)) for key, label in labels.items())],
        [[row["month"], str(row["problems"]), *(percent(row[key]) for key in labels)] for row in selection["months"]],
    )


def _short(key: str, label: str, columns: int) -> str:
    """The label, or the key where labels would make a table too wide."""
    return label if columns <= 3 else key
