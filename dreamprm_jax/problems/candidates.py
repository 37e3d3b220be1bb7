"""Reads candidate programs that were written elsewhere.

A file is a JSON list, JSON lines or Parquet (``json_rows.SUFFIXES``). Its rows are, told apart by their fields:
- ``{problem_id, code[, passed]}``, this package's, of which ``schema.Program`` is one;
- ``{question_id, code_list[, graded_list]}``, LiveCodeBench's ``eval_all`` files and the custom evaluator's input, or
  ``{question_id, output_list}``, raw answers, from which the code is extracted;
- ``{task_id, solution}`` or ``{task_id, completion}``, the samples of evalplus, HumanEval and BigCodeBench. A
  completion without a function of its own continues the problem's starter code (``CandidateFile.completed``);
- a list of programs, as the custom evaluator takes them: one for each problem, by the order of their ids.
A JSON file may also be the results that evalplus and BigCodeBench write, ``{eval: {task_id: [sample, ...]}}``. A folder
holds a sample in each file, ``HumanEval_0/0.py``, as evalplus writes them.

Code is taken as it is, unless it begins with a fence. One bad cell costs that cell alone: a candidate without code, or
with a value that is no text or cannot be stored, stays in ``unusable``: it is named, is not judged, and counts as
failed. A row that names no problem or holds no candidates is named and skipped. Equal texts of one problem are all
kept, since each is a sample.
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
)
from dreamprm_jax.schema import DataError, Problem, Program, Skip
from dreamprm_jax.storage import column_names, iterate_records, write_text

FIELDS = ("code", "solution", "completion", "code_list", "output_list")  # of samples: one, or a list
ID_FIELDS = ("problem_id", "question_id", "task_id")
_FOLDER = re.compile(r"^(HumanEval|Mbpp|BigCodeBench)_(\d+)$")  # evalplus puts _ for the / of an id
_DEFINES = re.compile(r"^(?:async\s+)?(?:def|class)\s", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """One sample of one problem, with what its file says of it."""

    program: Program
    file_passed: bool | None  # the file's own verdict, where it has one
    continues: bool = False  # the code continues the problem's starter code


@dataclass(frozen=True)
class CandidateFile:
    """All candidates of a file, in its order."""

    usable: tuple[Candidate, ...]
    unusable: tuple[Candidate, ...]  # failed without being judged; named in ``skips``
    skips: tuple[Skip, ...]  # those, rows without candidates, and verdicts that cannot be read
    duplicates: int  # candidates whose text an earlier one of the same problem has
    positions: int = 0  # rows of a file that names no problem: ids are places among the sorted ids of the problems

    @property
    def problem_ids(self) -> set[str] | None:
        """The problems that have candidates; None where the file names none."""
        return None if self.positions else {one.program.problem_id for one in (*self.usable, *self.unusable)}

    @property
    def needs_problems(self) -> bool:
        """Whether ``completed`` has something to do: programs are not whole, or problems not named."""
        return bool(self.positions) or any(one.continues for one in self.usable)

    def completed(self, problems: Mapping[str, Problem]) -> CandidateFile:
        """The file with whole programs for named problems.

        Raises:
          DataError: where problems are needed and there are none, or a file that names none has not one row for each.
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
    """The problems of a file whose rows name none, in its order; empty for another file (``rows`` = 0).

    Raises:
      DataError: where there is not one problem for each row.
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
    """The usable candidates of a file, read again for each iteration, a row in memory at a time.

    Attributes:
      counts: usable candidates of each problem.
      unusable: how many others there are, named in ``skips``.
      skips: as in ``CandidateFile``.
    """

    def __init__(self, path: Path, strict: bool = False) -> None:
        """Reads the file once; arguments and errors are those of ``read_candidates``."""
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
        """The problems that have candidates; None where the file names none."""
        return None if self._positions else set(self.counts)

    def complete(self, problems: Mapping[str, Problem]) -> None:
        """From here on gives whole programs for named problems (``CandidateFile.completed``)."""
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
    """One sample as a row holds it."""

    code: str  # "" where ``fault`` says why there is none
    passed: bool | None  # the file's verdict
    fault: str = ""  # of the code: the field, and what is wrong with it
    verdict_fault: str = ""
    continues: bool = False  # the code continues the problem's starter code


def read_candidates(path: Path, strict: bool = False) -> CandidateFile:
    """Reads one file, or a folder of samples.

    Args:
      path: The file or folder.
      strict: The first row, code or verdict that cannot be read is an error.

    Raises:
      DataError: naming the file, the row and the field: where the file as a whole cannot be read, or with ``strict``.
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
    """Yields (candidate, why its code is unusable), a row in memory at a time.

    Args:
      path: As ``read_candidates``.
      skips: Receives those that are unusable, rows without candidates, and verdicts that cannot be read.

    Raises:
      DataError: where the file as a whole cannot be read.
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
        raise DataError(f"{path}: holds no candidate" + "".join(f"; {s.row}: {s.reason}" for s in skips[:1]))


def _unusable(code: str) -> str:
    if not code.strip():
        return "empty code"
    return "" if is_unicode(code) else "code with a lone surrogate"


def rows_without_problem(path: Path) -> int:
    """How many rows a file has whose rows are lists of programs; 0 for any other."""
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
    """Yields (number, name, row) of a file or folder of candidates, one in memory at a time.

    A list of programs becomes a row whose ``problem_id`` is its place, from 0. The name of a row is "row N", or that of
    its file in a folder of samples.

    Args:
      path: The file or folder.
      columns: The columns of Parquet that are wanted; None for all.

    Raises:
      DataError: where the file as a whole cannot be read.
    """
    if path.is_dir():
        yield from _sample_files(path)
        return
    listed = None if row_suffix(path) == ".json" else False  # as the first row says
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
            yield number, name, DataError(f"{path}, {name}: a {json_type(row)} where a JSON object belongs")


def _sample_files(path: Path) -> Iterator[Row]:
    """Programs as evalplus keeps them, ``HumanEval_0/0.py`` for the first sample of HumanEval/0, as rows."""
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
    """(candidate, what is wrong with its code); what belongs to no candidate goes to ``skips``."""
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
                skips.append(Skip(source, name, f"{cell.verdict_fault}: the file's verdict is not read"))
            samples[problem_id] += 1
            yield Candidate(program, cell.passed, cell.continues), cell.fault


def candidate_id(row: Mapping[str, Any], where: str) -> str:
    """The problem that a row of candidates belongs to.

    Raises:
      DataError: where it names none.
    """
    return id_field(row, next((name for name in ID_FIELDS if row.get(name) is not None), ID_FIELDS[0]), where)


def cells_of_row(row: dict[str, Any], where: str) -> list[Cell]:
    """The samples of a row.

    Raises:
      DataError: where the row has no field of samples, or its lists do not fit together.
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
        raise DataError(f"{where}, field {name}: a {json_type(texts)} where a list belongs")
    else:
        cells = [_cell(texts, verdicts, name, verdict_name, False)]
    return [replace(cell, continues=name == "completion" and _continues(cell.code)) for cell in cells]


def _continues(code: str) -> bool:
    """Whether a completion is the rest of a function, rather than the whole of it."""
    return code.lstrip("\r\n")[:1] in (" ", "\t") or _DEFINES.search(code) is None


def _cell(text: Any, verdict: Any, name: str, verdict_name: str, is_answer: bool) -> Cell:
    passed, verdict_fault = None, ""
    if isinstance(verdict, bool) or (isinstance(verdict, int | float) and verdict in (0, 1)):
        passed = bool(verdict)
    elif verdict is not None:
        verdict_fault = f"field {verdict_name}: a {json_type(verdict)} where true or false belongs"
    if not isinstance(text, str):
        return Cell("", passed, f"field {name}: a {json_type(text)} where text belongs", verdict_fault)
    if is_answer or text.lstrip().startswith(("```", "~~~")):
        text = extract_code(text)
    return Cell(text, passed, verdict_fault=verdict_fault)


def write_samples(path: Path, programs: Iterable[Program]) -> int:
    """Writes programs as evalplus, HumanEval and BigCodeBench take them. Returns how many."""
    rows = [json.dumps({"task_id": one.problem_id, "solution": one.code}, ensure_ascii=False) for one in programs]
    write_text(path, "".join(f"{row}\n" for row in rows))
    return len(rows)
