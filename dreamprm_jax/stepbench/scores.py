"""Reads a scorer's output for a benchmark: step scores, a named step, or token log-probabilities.

The file is JSON lines, or Parquet (``schema.Score``, as written by ``dreamprm score``). Each row names its program by
``program_hash`` and has one of

- ``step_scores``: one number per step, higher is better. The first step below a threshold is predicted to be wrong.
- ``first_wrong``: the index of the step that is predicted to be wrong, -1 for none. This is for critics that answer in
  text.
- ``token_logprobs`` and ``text_offset`` of the program's tokens, as an OpenAI-compatible server returns them for an
  echoed prompt. ``code_start`` is the offset at which the program begins (default 0). The score of a step is the mean
  or minimum log-probability of the tokens that begin in it. Any language model can serve as this baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.json_rows import read_jsonl
from dreamprm_jax.schema import DataError, Score
from dreamprm_jax.stepbench.records import Truth
from dreamprm_jax.storage import read_records

REDUCTIONS = ("mean", "min")


@dataclass(frozen=True)
class Said:
    """A scorer's output. Each program has either step scores or a named step, or neither."""

    scores: dict[str, tuple[float, ...]]  # step scores, by program hash
    named: dict[str, int]  # index of the named step, -1 for none, by program hash
    unknown: int  # number of rows whose program is not in the benchmark


def read_scores(path: Path, truth: Mapping[str, Truth], reduction: str = "mean") -> Said:
    """Reads a scorer's file and checks it against the benchmark.

    Args:
      path: a .jsonl or .parquet file.
      truth: truth of the benchmark's programs, of which only ``step_ends`` is used.
      reduction: reduction of log-probabilities to a step's score, ``mean`` or ``min``.

    Raises:
      DataError: if a field is wrong, naming the row and the field; or if no row belongs to this benchmark.
    """
    said = Said({}, {}, 0)
    unknown = 0
    for where, row in _rows(path):
        key = row.get("program_hash")
        if not isinstance(key, str):
            raise DataError(f"{where}, field program_hash: missing; export the programs to get it")
        if key not in truth:
            unknown += 1
            continue
        if key in said.scores or key in said.named:
            raise DataError(f"{where}, field program_hash: {key} was there before; one row a program")
        ends = truth[key].step_ends
        if "first_wrong" in row:
            said.named[key] = _named(row["first_wrong"], len(ends), f"{where}, field first_wrong")
        elif "step_scores" in row:
            said.scores[key] = _scores(row["step_scores"], len(ends), f"{where}, field step_scores")
        elif "token_logprobs" in row:
            said.scores[key] = step_logprobs(row, ends, where, reduction)
        else:
            raise DataError(f"{where}: has none of the fields step_scores, first_wrong, token_logprobs")
    if not said.scores and not said.named:
        raise DataError(f"{path}: no row is of this benchmark's {len(truth)} programs; compare their program_hash")
    return Said(said.scores, said.named, unknown)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        for number, score in enumerate(read_records(path, Score), start=1):
            yield f"{path}, row {number}", {"program_hash": score.program_hash, "step_scores": score.step_scores}
    elif path.suffix == ".jsonl":
        yield from read_jsonl(path)
    else:
        raise DataError(f"{path}: scores are read from .jsonl and .parquet files")


def _numbers(values: Any, where: str) -> list[float]:
    if not isinstance(values, (list, tuple)):
        raise DataError(f"{where}: not a list of numbers")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{where}[{index}]: {value!r} is not a finite number")
    return [float(value) for value in values]


def _scores(values: Any, steps: int, where: str) -> tuple[float, ...]:
    numbers = _numbers(values, where)
    if len(numbers) != steps:
        raise DataError(f"{where}: {len(numbers)} scores, but the program has {steps} steps (truth.parquet, step_ends)")
    return tuple(numbers)


def _named(value: Any, steps: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < steps:
        raise DataError(f"{where}: {value!r} is neither -1 nor the index of one of the program's {steps} steps")
    return value


def step_logprobs(
    row: Mapping[str, Any], ends: Sequence[int], where: str, reduction: str = "mean"
) -> tuple[float, ...]:
    """A score for each step from the log-probabilities of its tokens.

    Args:
      row: a row with ``token_logprobs``, ``text_offset`` and optionally ``code_start``. Null values, such as that of
        the first token, are ignored.
      ends: string offsets at which the program's steps end.
      where: name of the row in errors.
      reduction: ``mean`` or ``min``.

    Raises:
      DataError: if the fields have different lengths, or if a step has no token.
    """
    offsets = _numbers(row.get("text_offset"), f"{where}, field text_offset")
    logprobs = row["token_logprobs"]
    if not isinstance(logprobs, list) or len(logprobs) != len(offsets):
        raise DataError(f"{where}: token_logprobs and text_offset must be lists of one length")
    (start,) = _numbers([row.get("code_start", 0)], f"{where}, field code_start")
    known = [(offset - start, value) for offset, value in zip(offsets, logprobs, strict=True) if value is not None]
    values = _numbers([value for _, value in known], f"{where}, field token_logprobs")
    scores, begin = [], 0
    for index, end in enumerate(ends):
        inside = [value for (offset, _), value in zip(known, values, strict=True) if begin <= offset < end]
        if not inside:
            raise DataError(f"{where}: no token begins in step {index} (offsets {begin} to {end} of the program)")
        scores.append(min(inside) if reduction == "min" else sum(inside) / len(inside))
        begin = end
    return tuple(scores)
