"""LiveCodeBench's ``eval_all`` files, written: its own scripts then read our candidates and verdicts.

One row a problem, as ``CodeGenerationProblem.insert_output_evaluation`` makes it (commit 28fef95), in the order of
``question_id``; ``lcb_runner.evaluation.compute_scores --eval_all_file FILE`` prints pass@k of it, and the custom
evaluator takes it as ``--custom_output_file`` (``code_list`` by ``question_id``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.schema import Problem
from dreamprm_jax.storage import write_text


def eval_all_row(problem: Problem, codes: Sequence[str], passed: Sequence[bool]) -> dict[str, Any]:
    """One problem with its candidates and their verdicts.

    ``output_list`` holds the programs again: the raw answers are not kept. ``contest_date`` has no time zone, as the
    official reader compares it with dates that have none.

    Raises:
      ValueError: without candidates: ``pass@1`` would be undefined.
    """
    if not codes or len(codes) != len(passed):
        raise ValueError(f"{problem.problem_id}: {len(codes)} programs and {len(passed)} verdicts")
    verdicts = [bool(value) for value in passed]
    return {
        "question_title": problem.title,
        "question_content": problem.statement,
        "platform": problem.platform,
        "question_id": problem.problem_id,
        "contest_id": problem.contest_id,
        "contest_date": problem.contest_date[:19],
        "starter_code": problem.starter_code,
        "difficulty": problem.difficulty,
        "output_list": list(codes),
        "code_list": list(codes),
        "graded_list": verdicts,
        "pass@1": sum(verdicts) / len(verdicts),
        "metadata": ["{}"] * len(codes),
    }


def write_eval_all(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows, in the order in which the official scripts sort. Returns how many."""
    ordered = sorted(rows, key=lambda row: str(row["question_id"]))
    write_text(path, json.dumps(ordered, indent=4) + "\n")
    return len(ordered)
