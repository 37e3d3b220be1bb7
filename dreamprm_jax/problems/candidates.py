"""Reads candidate programs from files of this package and of other tools.

A file is a JSON list, JSON lines or Parquet (``json_rows.SUFFIXES``). The format of a row is recognized by its fields:
- ``{problem_id, code[, passed]}``: this package's format, which includes ``schema.Program``;
- ``{question_id, code_list[, graded_list]}``: LiveCodeBench's ``eval_all`` files and the custom evaluator's input; or
  ``{question_id, output_list}``: raw answers, from which the code is extracted;
- ``{task_id, solution}`` or ``{task_id, completion}``: samples of evalplus, HumanEval and BigCodeBench. A completion
  that defines no function continues the problem's starter code (``CandidateFile.completed``);
- a list of programs, also accepted by the custom evaluator: one list per problem, in the order of the problem ids.
A JSON file may also hold the results of evalplus or BigCodeBench, ``{eval: {task_id: [sample, ...]}}``. A folder holds
one sample per file, ``HumanEval_0/0.py``, as written by evalplus.

Code is used unchanged, unless it begins with a fence. An invalid cell affects only its own candidate. A candidate is
``unusable`` if it has no code, or its code is not text or cannot be stored; it is reported, not judged, and counts as
failed. A row that names no problem or has no candidates is reported and skipped. Duplicates within a problem are kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.problems.json_rows import (
    file_errors,
    id_field,
    is_unicode,
    json_type,
    numbered_values,
    row_suffix,
    skip_or_raise,
    type_error,
)
from dreamprm_jax.schema import DataError, Problem, Program, Skip
from dreamprm_jax.storage import column_names, iterate_records, write_text

FIELDS = ("code", "solution", "completion", "code_list", "output_list")  # each holds one sample or a list of samples
ID_FIELDS = ("problem_id", "question_id", "task_id")
_FOLDER = re.compile(r"^(HumanEval|Mbpp|BigCodeBench)_(\d+)$")  # evalplus replaces the / of an id with _
_DEFINES = re.compile(r"^(?:async\s+)?(?:def|class)\s", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """One sample of one problem, with the verdict in its file."""

    program: Program
    file_passed: bool | None  # the verdict in the file; None if there is none
    continues: bool = False  # the code continues the problem's starter code


@dataclass(frozen=True)
class CandidateFile:
    """All candidates of a file, in its order."""

    usable: tuple[Candidate, ...]
    unusable: tuple[Candidate, ...]  # not judged, counted as failed; listed in ``skips``
    skips: tuple[Skip, ...]  # unusable candidates, rows without candidates, unreadable verdicts
    duplicates: int  # number of candidates with the same text as an earlier one of the same problem
    positions: int = 0  # if > 0, the number of rows, and problem ids are positions in the sorted list of ids

    @property
    def problem_ids(self) -> set[str] | None:
        """The problems that have candidates; None if the file names none."""
        return None if self.positions else {one.program.problem_id for one in (*self.usable, *self.unusable)}

    @property
    def needs_problems(self) -> bool:
        """Whether ``completed`` must be called: some programs are incomplete, or the file names no problems."""
        return bool(self.positions) or any(one.continues for one in self.usable)

    def completed(self, problems: Mapping[str, Problem]) -> CandidateFile:
        """The candidates with complete programs and with the ids of their problems.

        Raises:
          DataError: if ``problems`` is needed but empty, or its size differs from the number of rows.
        """
        if not self.needs_problems:
            return self
        if not problems:
            raise DataError("the candidates are completions, or name no problem; give their problems (--problems=FILE)")
        ids = problems_of_rows(problems, self.positions)
        usable, unusable = (
            tuple(_whole(one, problems, ids) for one in group) for group in (self.usable, self.unusable)
        )
        return replace(self, usable=usable, unusable=unusable, positions=0)


def problems_of_rows(problems: Mapping[str, Problem], rows: int) -> list[str]:
    """The problem ids, in order, of a file whose rows name no problem; empty for any other file (``rows`` = 0).

    Raises:
      DataError: if there is not one problem for each row.
    """
    ids = row_order(problems) if rows else []
    if rows != len(ids):
        raise DataError(
            f"its {rows} rows name no problem, and there are {len(ids)} problems; give one for each (--problems=FILE)"
        )
    return ids


def _whole(one: Candidate, problems: Mapping[str, Problem], ids: list[str]) -> Candidate:
    program = one.program
    problem_id = ids[int(program.problem_id)] if ids else program.problem_id
    starter = problems[problem_id].starter_code if one.continues and problem_id in problems else ""
    sampling = json.loads(program.sampling)
    made = Program.make(problem_id, starter + program.code, program.sample_index, program.policy, sampling)
    return replace(one, program=made, continues=False)


class CandidateStream:
    """The usable candidates of a file. Every iteration reads the file again, with one row in memory at a time.

    Attributes:
      counts: Number of usable candidates of each problem.
      unusable: Number of unusable candidates, which are listed in ``skips``.
      skips: As in ``CandidateFile``.
    """

    def __init__(self, path: Path, strict: bool = False) -> None:
        """Reads the file once. Arguments and errors are the same as in ``read_candidates``."""
        self._path, self._problems, self._ids = path, dict[str, Problem](), list[str]()
        self.counts: Counter[str] = Counter()
        self.unusable, self.skips = 0, list[Skip]()
        for candidate, fault in iterate_candidates(path, self.skips):
            self.unusable += bool(fault)
            self.counts[candidate.program.problem_id] += not fault
        self._positions = rows_without_problem(path)
        _check_candidates(path, self.skips, strict, found=bool(self.counts))
        self.counts = +self.counts

    @property
    def problem_ids(self) -> set[str] | None:
        """The problems that have candidates; None if the file names none."""
        return None if self._positions else set(self.counts)

    def complete(self, problems: Mapping[str, Problem]) -> None:
        """Completes the programs of all later iterations and names their problems (``CandidateFile.completed``)."""
        self._ids = problems_of_rows(problems, self._positions)
        self._problems = dict(problems)
        if self._ids:
            self.counts = Counter({self._ids[int(place)]: count for place, count in self.counts.items()})

    def __iter__(self) -> Iterator[Candidate]:
        for candidate, fault in iterate_candidates(self._path, []):
            if not fault:
                whole = self._ids or candidate.continues
                yield _whole(candidate, self._problems, self._ids) if whole else candidate


@dataclass(frozen=True)
class Cell:
    """One sample in a row."""

    code: str  # "" if there is a ``fault``
    passed: bool | None  # the verdict in the file
    fault: str = ""  # field and error, if the code cannot be used
    verdict_fault: str = ""  # field and error, if the verdict cannot be read
    continues: bool = False  # the code continues the problem's starter code


def read_candidates(path: Path, strict: bool = False) -> CandidateFile:
    """Reads one file, or a folder of samples.

    Args:
      path: The file or folder.
      strict: Whether the first row, code or verdict that cannot be read is an error.

    Raises:
      DataError: names the file, the row and the field, if the file as a whole cannot be read, or with ``strict``.
    """
    skips: list[Skip] = []
    usable, unusable = list[Candidate](), list[Candidate]()
    for candidate, fault in iterate_candidates(path, skips):
        (unusable if fault else usable).append(candidate)
    _check_candidates(path, skips, strict, found=bool(usable or unusable))
    distinct = {candidate.program.program_hash for candidate in usable}
    duplicates = len(usable) - len(distinct)
    return CandidateFile(tuple(usable), tuple(unusable), tuple(skips), duplicates, rows_without_problem(path))


def iterate_candidates(path: Path, skips: list[Skip]) -> Iterator[tuple[Candidate, str]]:
    """Yields (candidate, why its code is unusable or ""), with one row in memory at a time.

    Args:
      path: As in ``read_candidates``.
      skips: Receives unusable candidates, rows without candidates, and verdicts that cannot be read.

    Raises:
      DataError: if the file as a whole cannot be read.
    """
    if path.suffix == ".parquet" and {"sampling", "program_hash"} <= set(column_names(path)):
        found: Iterable[tuple[Candidate, str]] = (
            (Candidate(program, None), "") for program in iterate_records(path, Program)
        )
    else:
        found = _candidates(path, skips)
    for candidate, fault in found:
        if reason := fault or _unusable(candidate.program.code):
            name = f"{candidate.program.problem_id}, sample {candidate.program.sample_index}"
            skips.append(Skip(path.name, name, f"{reason}: not judged, counts as failed"))
        yield candidate, reason


def _check_candidates(path: Path, skips: list[Skip], strict: bool, found: bool) -> None:
    if strict and skips:
        raise DataError(f"{path}, {skips[0].row}: {skips[0].reason}; without --strict it is skipped and counted")
    if not found:
        raise DataError(f"{path}: contains no candidate" + "".join(f"; {s.row}: {s.reason}" for s in skips[:1]))


def _unusable(code: str) -> str:
    if not code.strip():
        return "empty code"
    return "" if is_unicode(code) else "code with a lone surrogate"


def rows_without_problem(path: Path) -> int:
    """The number of rows of a file whose rows are lists of programs; 0 for any other file."""
    if path.is_dir() or row_suffix(path) != ".json":
        return 0
    rows = numbered_values(path)
    return 1 + sum(1 for _ in rows) if isinstance(next(rows, (0, None))[1], list) else 0


def row_order(ids: Iterable[str]) -> list[str]:
    """The ids of problems in the order of a file that names none: HumanEval/2 comes before HumanEval/10."""

    def key(one: str) -> tuple[str, int, str]:
        prefix, _, number = one.rpartition("/")
        return prefix, int(number) if prefix and number.isdecimal() else 0, one

    return sorted(ids, key=key)


Row = tuple[int, str, dict[str, Any] | DataError]


def candidate_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Yields (number, name, row) of a file or folder of candidates, with one row in memory at a time.

    A list of programs becomes a row whose ``problem_id`` is its position, counted from 0. The name of a row is "row N";
    in a folder of samples, it is the name of the file.

    Args:
      path: The file or folder.
      columns: Parquet columns to read; None for all.

    Raises:
      DataError: if the file as a whole cannot be read.
    """
    if path.is_dir():
        yield from _sample_files(path)
        return
    listed = None if row_suffix(path) == ".json" else False  # decided by the first row
    for number, row in numbered_values(path, columns):
        name = f"row {number}"
        listed = isinstance(row, list) if listed is None else listed
        if isinstance(row, list) and listed:
            yield number, name, {"problem_id": number - 1, "code_list": row}
        elif isinstance(row, dict) and isinstance(row.get("eval"), dict):
            yield from ((number, name, sample) for sample in _results(row["eval"]))
        elif isinstance(row, dict | DataError):
            yield number, name, row
        else:
            yield number, name, type_error(f"{path}, {name}", row, "a JSON object")


def _sample_files(path: Path) -> Iterator[Row]:
    """Programs as evalplus stores them, ``HumanEval_0/0.py`` for the first sample of HumanEval/0, as rows."""
    files = [file for file in path.glob("*/*.py") if file.stem.isdigit()]
    for number, file in enumerate(sorted(files, key=lambda file: (file.parent.name, int(file.stem))), 1):
        with file_errors(file):
            text = file.read_bytes().decode("utf-8", "surrogateescape")
        name = _FOLDER.sub(r"\1/\2", file.parent.name)
        yield number, f"{file.parent.name}/{file.name}", {"task_id": name, "solution": text}


def _results(samples_of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples of evalplus's and BigCodeBench's results, with their verdict."""
    for task_id, samples in samples_of.items():
        for sample in samples if isinstance(samples, list) else [samples]:
            row = sample if isinstance(sample, dict) else {}
            words = [row[name] for name in ("status", "base_status", "plus_status") if row.get(name) is not None]
            yield {"task_id": task_id, "solution": row.get("solution"),
                   "passed": all(word == "pass" for word in words) if words else None}  # fmt: skip


def _candidates(path: Path, skips: list[Skip]) -> Iterator[tuple[Candidate, str]]:
    """Yields (candidate, fault of its code or ""). Errors of rows and of verdicts go to ``skips``."""
    samples: Counter[str] = Counter()
    source = path.name
    for _, name, row in candidate_rows(path):
        where = f"{path}, {name}"
        try:
            if isinstance(row, DataError):
                raise row
            problem_id = candidate_id(row, where)
            cells = cells_of_row(row, f"{where} ({problem_id})")
        except DataError as error:
            skip_or_raise(skips, where, error)
            continue
        for cell in cells:
            program = Program.make(problem_id, cell.code, samples[problem_id], Path(source).stem, {"file": source})
            if cell.verdict_fault:
                name = f"{problem_id}, sample {samples[problem_id]}"
                skips.append(Skip(source, name, f"{cell.verdict_fault}: the file's verdict is ignored"))
            samples[problem_id] += 1
            yield Candidate(program, cell.passed, cell.continues), cell.fault


def candidate_id(row: Mapping[str, Any], where: str) -> str:
    """The problem id of a row of candidates.

    Raises:
      DataError: if it has none.
    """
    return id_field(row, next((name for name in ID_FIELDS if row.get(name) is not None), ID_FIELDS[0]), where)


def cells_of_row(row: dict[str, Any], where: str) -> list[Cell]:
    """The samples of a row.

    Raises:
      DataError: if the row has no field of samples, or its lists have different lengths.
    """
    held = [name for name in FIELDS if name in row]
    if not held:
        raise DataError(f"{where}: has none of the fields {', '.join(FIELDS)}; no candidate to read")
    name = next((name for name in held if row[name] is not None), held[0])
    verdict_name = "graded_list" if name.endswith("_list") else "passed"
    texts, verdicts = row[name], row.get(verdict_name)
    if isinstance(texts, list):
        if verdicts is not None and not (isinstance(verdicts, list) and len(verdicts) == len(texts)):
            raise DataError(f"{where}, field {verdict_name}: must be a list of {len(texts)}, as long as {name}")
        cells = [
            _cell(text, verdict, f"{name}[{index}]", f"{verdict_name}[{index}]", name == "output_list")
            for index, (text, verdict) in enumerate(zip(texts, verdicts or [None] * len(texts), strict=True))
        ]
    elif verdict_name == "graded_list":
        raise type_error(f"{where}, field {name}", texts, "a list")
    else:
        cells = [_cell(texts, verdicts, name, verdict_name, False)]
    return [replace(cell, continues=name == "completion" and _continues(cell.code)) for cell in cells]


def _continues(code: str) -> bool:
    """Whether a completion is the rest of a function, rather than a whole function."""
    return code.lstrip("\r\n")[:1] in (" ", "\t") or _DEFINES.search(code) is None


def _cell(text: Any, verdict: Any, name: str, verdict_name: str, is_answer: bool) -> Cell:
    passed, verdict_fault = None, ""
    if isinstance(verdict, bool) or (isinstance(verdict, int | float) and verdict in (0, 1)):
        passed = bool(verdict)
    elif verdict is not None:
        verdict_fault = f"field {verdict_name}: must be true or false, not {json_type(verdict)}"
    if not isinstance(text, str):
        return Cell("", passed, f"field {name}: must be a string, not {json_type(text)}", verdict_fault)
    if is_answer or text.lstrip().startswith(("```", "~~~")):
        text = extract_code(text)
    return Cell(text, passed, verdict_fault=verdict_fault)


def write_samples(path: Path, programs: Iterable[Program]) -> None:
    """Writes programs in the format of evalplus, HumanEval and BigCodeBench."""
    rows = [json.dumps({"task_id": one.problem_id, "solution": one.code}, ensure_ascii=False) for one in programs]
    write_text(path, "".join(f"{row}\n" for row in rows))
