"""The ``/score_steps`` endpoint: takes a problem and programs, returns the span and score of each step.

The prompt is rendered as in training, so the scores equal those of the batch job.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamprm_jax.problems.json_rows import type_error
from dreamprm_jax.schema import DataError, Program, Step
from dreamprm_jax.scoring.inputs import inline_problem, unusable
from dreamprm_jax.scoring.prm import Prm
from dreamprm_jax.scoring.scorer import Reading
from dreamprm_jax.selection.aggregators import AGGREGATORS, aggregate, as_probability, sigmoid


class TooLong(DataError):
    """Raised for an input that is longer than the model's context."""


def total_score(logits: Float[np.ndarray, " s"], aggregator: str) -> float:
    """The score of a whole program, in [0, 1]."""
    return float(as_probability(aggregate([logits], aggregator), aggregator)[0])


def parse_aggregator(body: Mapping[str, Any], prm: Prm) -> str:
    """The requested aggregator, by default the model's. Raises DataError for an unknown name."""
    name = body.get("aggregator") or prm.default_aggregator
    if name not in AGGREGATORS:
        raise DataError(f"aggregator: {name!r}; choose from {', '.join(AGGREGATORS)}")
    return str(name)


def characters(value: Any) -> int:
    """Total number of characters of all strings in a request."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(characters, value.values() if isinstance(value, dict) else value))
    return 0


@dataclass(frozen=True)
class Steps:
    """A parsed ``/score_steps`` request."""

    programs: list[Program]
    steps: list[list[Step]]
    readings: list[Reading]
    truncated: bool  # whether the beginning of a statement was truncated
    aggregator: str


def parse_steps(body: Mapping[str, Any], prm: Prm) -> Steps:
    """Parses a request.

    It has ``problem`` (a string, or an object with statement, title and platform), either ``code`` (a string) or
    ``codes`` (a list of strings), and optionally ``aggregator``.

    Raises:
      DataError: if a field is wrong; names the field.
      TooLong: if a program exceeds the model's context.
    """
    given = body.get("problem")
    row = {"statement": given} if isinstance(given, str) else given
    problem = inline_problem(row, "problem") if isinstance(row, dict) else None
    if problem is None:
        raise DataError("problem: a statement, or an object with statement, title and platform, belongs here")
    if ("code" in body) == ("codes" in body):
        raise DataError("code: give either code or codes")
    name = "code" if "code" in body else "codes"
    codes = [body["code"]] if name == "code" else body["codes"]
    if not isinstance(codes, list) or not codes:
        raise DataError("codes: a list of programs belongs here")
    for index, code in enumerate(codes):
        where = name if name == "code" else f"codes[{index}]"
        if not isinstance(code, str):
            raise type_error(where, code, "a string")
        if reason := unusable(code, len(code)):
            raise DataError(f"{where}: {reason}")
    programs = [Program.make(problem.problem_id, code, index, "", {}) for index, code in enumerate(codes)]
    counts: Counter[str] = Counter()
    rows = prm.read(problem, programs, counts)
    if len(rows) < len(programs):
        left_out = min({program.sample_index for program in programs} - {row[0].sample_index for row in rows})
        raise TooLong(f"{name}[{left_out}]: longer than the model's context of {prm.limits.max_length} tokens")
    return Steps(
        programs,
        [prm.steps(program.code) for program in programs],
        [Reading(tokens, ends) for _, tokens, ends in rows],
        counts["statements truncated on the left"] > 0,
        parse_aggregator(body, prm),
    )


def steps_response(request: Steps, logits: Sequence[Float[np.ndarray, " s"]], prm: Prm) -> dict[str, Any]:
    """The answer to a ``/score_steps`` request. Offsets are positions in the program's text, in Unicode code points."""
    results = []
    for program, steps, reading, values in zip(request.programs, request.steps, request.readings, logits, strict=True):
        spans = [
            {"index": s.index, "start": s.start, "end": s.end, "name": s.name, "logit": logit, "score": score}
            for s, logit, score in zip(steps, values.tolist(), sigmoid(values).tolist(), strict=True)
        ]
        total = total_score(values, request.aggregator)
        row = {"program_hash": program.program_hash, "tokens": len(reading.tokens), "score": total, "steps": spans}
        results.append(row)
    return {
        "object": "list",
        "created": int(time.time()),
        "model": prm.name,
        "checkpoint": prm.checkpoint,
        "aggregator": request.aggregator,
        "statement_truncated": request.truncated,
        "results": results,
    }
