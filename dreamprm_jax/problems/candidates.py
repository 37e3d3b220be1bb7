"""Reads candidate programs that were written elsewhere.

Formats, told apart by the file's name and its rows:
- ``.json``: a list of LiveCodeBench rows, ``{question_id, code_list[, graded_list]}`` (its ``eval_all`` files and the
  custom evaluator's input) or ``{question_id, output_list}`` (raw answers, from which the code is extracted);
- ``.jsonl``: the same rows, or ``{problem_id, code[, passed]}``, one a line;
- ``.parquet``: this package's ``schema.Program`` rows.

Code is taken as it is, unless it begins with a fence. One bad cell costs that cell alone: a candidate without code, or
with a value that is no text or cannot be stored, stays in ``unusable``: it is named, is not judged, and counts as
failed. A row that names no problem or holds no candidates is named and skipped. Equal texts of one problem are all
kept, since each is a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.problems.json_rows import is_unicode, json_type, parse_json, read_jsonl, text_field
from dreamprm_jax.schema import DataError, Program, Skip
from dreamprm_jax.storage import read_records

ID_FIELDS = ("problem_id", "question_id")


@dataclass(frozen=True)
class Candidate:
    """One sample of one problem, with what its file says of it."""

    program: Program
    file_passed: bool | None  # the file's own verdict, where it has one


@dataclass(frozen=True)
class CandidateFile:
    """All candidates of a file, in its order."""

    usable: tuple[Candidate, ...]
    unusable: tuple[Candidate, ...]  # failed without being judged; named in ``skips``
    skips: tuple[Skip, ...]  # those, rows without candidates, and verdicts that cannot be read
    duplicates: int  # candidates whose text an earlier one of the same problem has


@dataclass(frozen=True)
class Cell:
    """One sample as a row holds it."""

    code: str  # "" where ``fault`` says why there is none
    passed: bool | None  # the file's verdict
    fault: str = ""  # of the code: the field, and what is wrong with it
    verdict_fault: str = ""


def read_candidates(path: Path, strict: bool = False) -> CandidateFile:
    """Reads one file of candidates.

    Args:
      path: The file.
      strict: The first row, code or verdict that cannot be read is an error.

    Raises:
      DataError: naming the file, the row and the field: where the file as a whole cannot be read, or with ``strict``.
    """
    skips: list[Skip] = []
    if path.suffix == ".parquet":
        found = [(Candidate(program, None), "") for program in read_records(path, Program)]
    elif path.suffix in (".json", ".jsonl"):
        rows = read_jsonl(path) if path.suffix == ".jsonl" else _json_rows(path)
        found = list(_candidates(rows, path.name, skips))
    else:
        raise DataError(f"{path}: candidates are read from .json, .jsonl and .parquet files")
    usable, unusable = [], []
    for candidate, fault in found:
        if reason := fault or _unusable(candidate.program.code):
            unusable.append(candidate)
            name = f"{candidate.program.problem_id}, sample {candidate.program.sample_index}"
            skips.append(Skip(path.name, name, f"{reason}: not judged, counts as failed"))
        else:
            usable.append(candidate)
    if strict and skips:
        raise DataError(f"{path}, {skips[0].row}: {skips[0].reason}; without --strict it is skipped and counted")
    if not found:
        raise DataError(f"{path}: holds no candidate" + "".join(f"; {s.row}: {s.reason}" for s in skips[:1]))
    distinct = {candidate.program.program_hash for candidate in usable}
    return CandidateFile(tuple(usable), tuple(unusable), tuple(skips), len(usable) - len(distinct))


def _unusable(code: str) -> str:
    if not code.strip():
        return "empty code"
    return "" if is_unicode(code) else "code with a lone surrogate"


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    rows = parse_json(data, str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: a {json_type(rows)} where a list of rows belongs (an eval_all file, not its metrics)")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {json_type(row)} where a JSON object belongs")
        yield where, row


def _candidates(
    rows: Iterable[tuple[str, dict[str, Any]]], source: str, skips: list[Skip]
) -> Iterator[tuple[Candidate, str]]:
    """(candidate, what is wrong with its code); what belongs to no candidate goes to ``skips``."""
    samples: Counter[str] = Counter()
    for where, row in rows:
        number = where.rpartition(", ")[2]
        try:
            name = next((name for name in ID_FIELDS if row.get(name) is not None), ID_FIELDS[0])
            problem_id = text_field(row, name, number)
            cells = cells_of_row(row, f"{number} ({name} {problem_id})")
        except DataError as error:
            skips.append(Skip(source, number, str(error).removeprefix(number).lstrip(", :")))
            continue
        for cell in cells:
            program = Program.make(problem_id, cell.code, samples[problem_id], Path(source).stem, {"file": source})
            if cell.verdict_fault:
                name = f"{problem_id}, sample {samples[problem_id]}"
                skips.append(Skip(source, name, f"{cell.verdict_fault}: the file's verdict is not read"))
            samples[problem_id] += 1
            yield Candidate(program, cell.passed), cell.fault


def cells_of_row(row: dict[str, Any], where: str) -> list[Cell]:
    """The samples of a row.

    Raises:
      DataError: where the row has no field of samples, or its lists do not fit together.
    """
    if "code" in row:
        return [_cell(row["code"], row.get("passed"), "code", "passed", False)]
    name = next((name for name in ("code_list", "output_list") if name in row), None)
    if name is None:
        raise DataError(f"{where}: has none of the fields code, code_list, output_list; no candidate to read")
    texts, verdicts = row[name], row.get("graded_list")
    if not isinstance(texts, list):
        raise DataError(f"{where}, field {name}: a {json_type(texts)} where a list belongs")
    if verdicts is not None and not (isinstance(verdicts, list) and len(verdicts) == len(texts)):
        raise DataError(f"{where}, field graded_list: must be a list of {len(texts)}, as long as {name}")
    return [
        _cell(text, verdict, f"{name}[{index}]", f"graded_list[{index}]", name == "output_list")
        for index, (text, verdict) in enumerate(zip(texts, verdicts or [None] * len(texts), strict=True))
    ]


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
