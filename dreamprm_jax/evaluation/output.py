"""Writes the results of a run: results.json, table.txt, a CSV file for each table, and eval_all.json.

``eval_all.json`` is in LiveCodeBench's format, so that its scripts can read our candidates and verdicts: one row per
problem, as written by ``CodeGenerationProblem.insert_output_evaluation`` (commit 28fef95), sorted by ``question_id``.
``lcb_runner.evaluation.compute_scores --eval_all_file FILE`` prints its pass@k, and the custom evaluator takes it as
``--custom_output_file`` (``code_list`` by ``question_id``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.printing import results_text
from dreamprm_jax.evaluation.ranking import methods
from dreamprm_jax.problems.livecodebench import official_fields
from dreamprm_jax.schema import Problem, Skip
from dreamprm_jax.storage import write_json, write_text
from dreamprm_jax.tables import LEAST_PROBLEMS, csv_text, without_intervals

_HACKING = ("accuracy", "score", "passes_public", "hacking_rate", "hacking_rate_of_public")


def write_results(
    folder: Path, results: dict[str, Any], candidates: Sequence[Candidates], skips: Sequence[Skip]
) -> dict[str, Any]:
    """Writes all files of the evaluate folder. Returns the contents of results.json."""
    if (problems := results["selection"]["counts"]["overall"]) < LEAST_PROBLEMS:
        notes = [*results["notes"], f"{problems} problems: too few for intervals or conclusions"]
        results = without_intervals(results, problems) | {"notes": notes}
    _write_tables(folder, results, candidates, skips)
    rows = [eval_all_row(one.problem, [row.code for row in one.programs], list(one.passed > 0)) for one in candidates]
    write_eval_all(folder / "eval_all.json", rows)
    write_json(folder / "results.json", results)
    write_text(folder / "table.txt", results_text(results))
    return results


def skip_counts(skips: Sequence[Skip]) -> list[dict[str, Any]]:
    """The number of rows that were left out, for each source and reason."""
    counts = Counter((skip.source, skip.reason) for skip in skips)
    return [{"source": source, "reason": reason, "count": count} for (source, reason), count in sorted(counts.items())]


def skip_rows(skips: Sequence[Skip]) -> list[dict[str, Any]]:
    """The rows of skipped.csv."""
    return [{"source": row.source, "row": row.row, "reason": row.reason} for row in skips]


def _write_tables(
    folder: Path, results: dict[str, Any], candidates: Sequence[Candidates], skips: Sequence[Skip]
) -> None:
    selection, strategies = results["selection"], results["strategies"]
    tables: dict[str, Sequence[dict[str, Any]]] = {
        "table": selection["table"],
        "differences": selection["differences"],
        "programs": selection["programs"],
        "platforms": selection["platforms"],
        "months": selection["months"],
        "curve": [
            {"method": key, "k": k, **point}
            for key, points in selection["curve"]["methods"].items()
            for k, point in zip(selection["curve"]["k"], points, strict=True)
        ],
        "aggregators": [{"arm": arm, **row} for arm, row in selection["aggregators"].items()],
        "strategies": strategies["table"],
        "costs": strategies["curve"],
        "hacking": [
            {"method": row["method"], "n": n, **{name: row[name][column] for name in _HACKING}}
            for row in strategies["hacking"]
            for column, n in enumerate(row["n"])
        ],
        "candidates": _candidate_rows(candidates, results["arms"], results["aggregator"]),
        "skipped": skip_rows(skips),
    }
    for section in ("steps", "labels"):
        if results[section]:
            tables[section] = results[section]["table"]
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", csv_text(rows))


def _candidate_rows(candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str) -> list[dict[str, Any]]:
    """One row for each candidate: verdict, length, and the number that each arm ranks it by."""
    numbers = {method.key: method.numbers for method in methods(candidates, arms, aggregator) if method.key in arms}
    return [
        {
            "problem_id": one.problem.problem_id,
            "difficulty": one.problem.difficulty,
            "program_hash": program.program_hash,
            "sample_index": program.sample_index,
            "passed": int(one.passed[position]),
            "characters": len(program.code),
            **{arm: float(numbers[arm][row][position]) for arm in arms},
        }
        for row, one in enumerate(candidates)
        for position, program in enumerate(one.programs)
    ]


def eval_all_row(problem: Problem, codes: Sequence[str], passed: Sequence[bool]) -> dict[str, Any]:
    """One problem with its candidates and their verdicts.

    ``output_list`` repeats the programs, because the raw answers are not stored. ``contest_date`` has no time zone,
    because the official reader compares it with naive dates.

    Raises:
      ValueError: if there are no candidates, since ``pass@1`` would be undefined.
    """
    if not codes or len(codes) != len(passed):
        raise ValueError(f"{problem.problem_id}: {len(codes)} programs and {len(passed)} verdicts")
    verdicts = [bool(value) for value in passed]
    return official_fields(problem) | {
        "contest_date": problem.contest_date[:19],
        "output_list": list(codes),
        "code_list": list(codes),
        "graded_list": verdicts,
        "pass@1": sum(verdicts) / len(verdicts),
        "metadata": ["{}"] * len(codes),
    }


def write_eval_all(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes the rows, sorted as by the official scripts."""
    ordered = sorted(rows, key=lambda row: str(row["question_id"]))
    write_text(path, json.dumps(ordered, indent=4) + "\n")
