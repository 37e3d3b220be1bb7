"""Summarizes the results of a run in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamprm_jax.evaluation.ranking import ORACLE, RANDOM
from dreamprm_jax.selection.reward_models import short_label
from dreamprm_jax.tables import LEAST_PROBLEMS, interval, number, percent, percent_interval, signed

WITHOUT_MODEL = ("public", "vote", "public_vote", "logprob")
"""Strategies that need no reward model."""


def conclusions(results: Mapping[str, Any]) -> list[str]:
    """Two to four sentences about the contents of results.json."""
    selection = results["selection"]
    problems = selection["counts"]["overall"]
    rows = {row["method"]: row for row in selection["table"]}
    arms = [rows[arm] for arm in results["arms"]]
    if problems < LEAST_PROBLEMS:
        noun = "problem" if problems == 1 else "problems"
        return [
            f"This run has {problems} test {noun}: enough to show that the pipeline works, too few to compare methods."
        ]
    sentences = []
    if arms:
        best = max(arms, key=lambda row: row["overall"]["estimate"])
        sentences += [_against_random(best, rows, selection, len(arms)), *_between_models(selection["differences"])]
    sentences += _without_model(results, arms)
    return sentences + _steps(results)


def _solves(row: Mapping[str, Any]) -> str:
    return f"{percent(row['overall']['estimate'])} %"


def _against_random(best: Mapping[str, Any], rows: Mapping[str, Any], selection: Mapping[str, Any], models: int) -> str:
    gain = next(row for row in selection["differences"] if (row["method"], row["against"]) == (best["method"], RANDOM))
    name = short_label(best["method"])
    which = f"The best of {models} reward models here, {name}," if models > 1 else name
    noise = "" if excludes_zero(gain) else ", which may be chance"
    return (
        f"{which} solves {_solves(best)} of {selection['counts']['overall']} problems by the best of "
        f"{selection['best_of']} candidates; a random choice solves {_solves(rows[RANDOM])}, the oracle "
        f"{_solves(rows[ORACLE])}. The gain over random is {signed(100 * gain['estimate'])} points "
        f"{percent_interval(gain, sign=True)}{noise}."
    )


def excludes_zero(row: Mapping[str, Any]) -> bool:
    """Whether an interval is given and does not contain zero."""
    return row["low"] is not None and (row["low"] > 0 or row["high"] < 0)


def _between_models(differences: list[Mapping[str, Any]]) -> list[str]:
    paired = [row for row in differences if row["against"] != RANDOM]
    if not paired:
        return []
    clear = [row for row in paired if excludes_zero(row)]
    if not clear:
        return ["The intervals of all differences in selection between the reward models contain zero."]
    told = "; ".join(
        f"{row['label']}: {signed(100 * row['estimate'])} {percent_interval(row, sign=True)}" for row in clear
    )
    return [f"Differences in selection whose interval excludes zero, in points: {told}."]


def _without_model(results: Mapping[str, Any], arms: list[Mapping[str, Any]]) -> list[str]:
    """Compares the best strategy without a reward model with the best combination."""
    table = results["strategies"]["table"]
    free = [row for row in table if row["method"] in WITHOUT_MODEL]
    if not free or not arms:
        return []
    best = max(free, key=lambda row: row["overall"]["estimate"])
    reading = max(row["overall"]["estimate"] for row in arms)
    verb = "more than every reward model alone" if best["overall"]["estimate"] > reading else "less"
    sentence = f"Without a reward model, the best strategy is {best['label']}: it solves {_solves(best)}, {verb}"
    combined = [row for row in table if "+" in row["method"]]
    if combined:
        top = max(combined, key=lambda row: row["overall"]["estimate"])
        sentence += f"; the best combination, {top['label']}, solves {_solves(top)}"
    notes = [note.partition(": ")[2] for note in results["notes"] if note.startswith(best["label"])]
    return [f"{sentence}." + "".join(f" But {note}." for note in notes)]


def _steps(results: Mapping[str, Any]) -> list[str]:
    if not results["steps"]:
        return []
    rows = [row for row in results["steps"]["table"] if row["auroc_recoverable"]["estimate"] is not None]
    scores = [row for row in rows if row.get("key") in results["arms"]]
    if not scores:
        return []
    best = max(scores, key=lambda row: row["auroc_recoverable"]["estimate"])
    sentence = (
        f"At the level of steps, {short_label(best['key'])} best predicts whether a prefix is recoverable: AUROC "
        f"{number(best['auroc_recoverable']['estimate'])} {interval(best['auroc_recoverable'])}"
    )
    if gap := best.get("auroc_recoverable_minus_raw"):
        sentence += f", {signed(gap['estimate'], 3)} {interval(gap)} over raw labels"
    return [sentence + "."]
