"""Reads the candidates to score one at a time, from any file format of ``problems.candidates``.

A candidate that cannot be scored becomes a ``Skip`` with its row and the reason, in the order of the file. No row is
dropped silently. A row may also have ``completions``, a list of steps that are scored without being split again. A row
either names its problem (``problem_id``, ``question_id`` or ``task_id``) in a problems file, or contains the statement
(``statement`` or ``question_content``, with ``title`` and ``platform``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.labeling.step_files import SteppedProgram
from dreamprm_jax.problems.candidates import (
    ID_FIELDS,
    candidate_id,
    candidate_rows,
    cells_of_row,
    problems_of_rows,
    rows_without_problem,
)
from dreamprm_jax.problems.function_rows import is_function_row, read_function_row
from dreamprm_jax.problems.json_rows import check_text, is_unicode, read_rows, reason_of, skip_or_raise, type_error
from dreamprm_jax.problems.problem_files import problem_paths
from dreamprm_jax.schema import DataError, Problem, Program, Skip, content_hash

# The fields of the prompt, by our name and LiveCodeBench's.
PROMPT_FIELDS = {
    "title": ("title", "question_title"),
    "statement": ("statement", "question_content", "prompt"),
    "platform": ("platform",),
}
_COLUMNS = {
    *ID_FIELDS, "code", "solution", "completion", "completions", "code_list", "output_list", "sample_index",
    "starter_code",
    *(spelling for spellings in PROMPT_FIELDS.values() for spelling in spellings),
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One candidate program of the input."""

    row: int  # row of the file, from 1
    sample_index: int  # index among the candidates of its problem
    problem: Problem  # only the fields that the prompt needs
    code: str
    steps: tuple[str, ...] | None = None  # texts of the steps, if the row contains them

    def program(self, sample_index: int) -> Program:
        """The candidate as a Program."""
        if self.steps is not None:
            return SteppedProgram.of(self.problem.problem_id, self.steps, sample_index)
        return Program.make(self.problem.problem_id, self.code, sample_index, "", {})


def read_items(path: Path, problems: Mapping[str, Problem], source: str, max_characters: int) -> Iterator[Item | Skip]:
    """Yields every candidate of a file, or the reason why it is skipped.

    Args:
      path: a file or a folder of samples.
      problems: problems by id.
      source: name of the input in the skips.
      max_characters: maximum length of a program; longer ones are skipped before tokenization.

    Raises:
      DataError: if the file as a whole cannot be read.
    """
    samples: Counter[str] = Counter()
    try:
        ids = problems_of_rows(problems, rows_without_problem(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    for number, where, row in candidate_rows(path, _COLUMNS):
        try:
            if isinstance(row, DataError):
                raise row
            if ids:
                row = row | {"problem_id": ids[row["problem_id"]]}
            problem = _problem(row, problems, where)
            steps = _given_steps(row)
            cells = cells_of_row(row if steps is None else {"code": "".join(steps)}, where)
        except DataError as error:
            yield Skip(source, where, reason_of(error, f"{path}, ", where))
            continue
        for index, cell in enumerate(cells):
            name = where if len(cells) == 1 else f"{where}, candidate {index}"
            sample = row.get("sample_index")
            if not isinstance(sample, int) or isinstance(sample, bool) or not 0 <= sample < 2**63:
                sample = samples[problem.problem_id]
            samples[problem.problem_id] += 1
            code = problem.starter_code + cell.code if cell.continues else cell.code
            reason = unusable(code if cell.code.strip() else "", max_characters)
            fault = cell.fault or (f"field code: {reason}" if reason else "")
            yield Skip(source, name, fault) if fault else Item(number, sample, problem, code, steps)


def _given_steps(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    steps = row.get("completions")
    if steps is None:
        return None
    if not isinstance(steps, list) or not all(isinstance(step, str) and step.strip() for step in steps):
        raise DataError("field completions: a list of texts, none of them empty, belongs here")
    return tuple(steps)


def unusable(code: str, max_characters: int) -> str:
    """The reason why a program cannot be scored; "" if it can."""
    if not code.strip():
        return "empty program"
    if len(code) > max_characters:
        return f"{len(code)} characters, more than {max_characters}"
    if "\0" in code:
        return "contains a NUL character, which no Python program may contain"
    if not is_unicode(code):
        return "contains a lone surrogate, which has no UTF-8 form"
    return ""


# ---------------------------------------------------------------- problems


def read_problems(path: str, release: str, skips: list[Skip] | None = None) -> dict[str, Problem]:
    """Reads problems by id, with only the fields that a prompt needs.

    Args:
      path: rows ``{problem_id, statement, title, platform}``, or any format of ``problem_files.iterate_problems``.
      release: the release windows to read if ``path`` is a folder or a dataset of the hub.
      skips: receives the rows that cannot be used. If None, the first such row is an error.

    Raises:
      DataError: names the file, the row and the field.
    """
    problems: dict[str, Problem] = {}
    for where, row in (one for file in problem_paths(path, release) for one in read_rows(file, skips)):
        try:
            problem = read_function_row(row, where, None).problem.split()[0] if is_function_row(row) else None
            problem = problem or inline_problem(row, where)
            if problem is None:
                raise DataError(f"{where}, field statement: missing (or question_content)")
            if not any(name in row for name in ID_FIELDS):
                raise DataError(f"{where}, field problem_id: missing (or question_id, task_id)")
            if problem.problem_id in problems:
                raise DataError(f"{where}, field problem_id: {problem.problem_id!r} is there twice; remove one")
        except DataError as error:
            skip_or_raise(skips, where, error)
            continue
        problems[problem.problem_id] = problem
    if not problems:
        raise DataError(f"{path}: holds no problem")
    return problems


def inline_problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """The problem whose statement a row contains; None if the row contains no statement.

    Raises:
      DataError: names the field that is not text.
    """
    fields: dict[str, str] = {}
    for name, spellings in PROMPT_FIELDS.items():
        spelling = next((s for s in spellings if row.get(s) is not None), None)
        if spelling is not None:
            fields[name] = _text(row, spelling, where)
    if "statement" not in fields:
        return None
    title, statement, platform = (fields.get(name, "") for name in PROMPT_FIELDS)
    spelling = next((s for s in ID_FIELDS if row.get(s) is not None), None)
    own = candidate_id(row, where) if spelling else f"inline-{content_hash(title, statement, platform, digits=16)}"
    starter = row.get("starter_code")
    starter = starter if isinstance(starter, str) else ""
    return Problem(own, title, statement, platform, contest_id="", contest_date="", difficulty="", starter_code=starter)


def _problem(row: Mapping[str, Any], problems: Mapping[str, Problem], where: str) -> Problem:
    if (own := inline_problem(row, where)) is not None:
        return own
    if not any(row.get(name) is not None for name in ID_FIELDS):
        raise DataError("field problem_id: missing (or question_id, task_id), and no statement in the row")
    identity = candidate_id(row, where)
    if identity not in problems:
        raise DataError(f"problem {identity!r} is not in the problems file, and no statement in the row")
    return problems[identity]


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value, prefix = row[name], f"{where}, " if where else ""
    if not isinstance(value, str):
        raise type_error(f"{prefix}field {name}", value, "a string")
    return check_text(value, f"{prefix}field {name}")
