"""Reads candidate programs that were written elsewhere.

Formats, told apart by the file's name and its rows:
- ``.json``: a list of LiveCodeBench rows, ``{question_id, code_list[, graded_list]}`` (its ``eval_all`` files and the
  custom evaluator's input) or ``{question_id, output_list}`` (raw answers, from which the code is extracted);
- ``.jsonl``: the same rows, or ``{problem_id, code[, passed]}``, one a line;
- ``.parquet``: this package's ``schema.Program`` rows.

Code is taken as it is, unless it begins with a fence. A candidate without code, or with text that cannot be stored,
stays in ``unusable``: it is named, is not judged, and counts as failed. Equal texts of one problem are all kept, since
each is a sample.
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
    skips: tuple[Skip, ...]
    duplicates: int  # candidates whose text an earlier one of the same problem has


def read_candidates(path: Path) -> CandidateFile:
    """Reads one file of candidates.

    Raises:
      DataError: naming the file, the row and the field.
    """
    if path.suffix == ".parquet":
        candidates = [Candidate(program, None) for program in read_records(path, Program)]
    elif path.suffix in (".json", ".jsonl"):
        rows = read_jsonl(path) if path.suffix == ".jsonl" else _json_rows(path)
        candidates = list(_candidates(rows, path.name))
    else:
        raise DataError(f"{path}: candidates are read from .json, .jsonl and .parquet files")
    if not candidates:
        raise DataError(f"{path}: holds no candidate")
    usable, unusable, skips = [], [], []
    for candidate in candidates:
        reason = _unusable(candidate.program.code)
        if reason:
            unusable.append(candidate)
            name = f"{candidate.program.problem_id}, sample {candidate.program.sample_index}"
            skips.append(Skip(path.name, name, f"{reason}: not judged, counts as failed"))
        else:
            usable.append(candidate)
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


def _candidates(rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> Iterator[Candidate]:
    samples: Counter[str] = Counter()
    for where, row in rows:
        name = next((name for name in ID_FIELDS if name in row), None)
        if name is None:
            raise DataError(f"{where}, field {ID_FIELDS[0]}: missing (or {ID_FIELDS[1]})")
        problem_id = text_field(row, name, where)
        where = f"{where} ({name} {problem_id})"
        for code, passed in codes_of_row(row, where):
            program = Program.make(problem_id, code, samples[problem_id], Path(source).stem, {"file": source})
            samples[problem_id] += 1
            yield Candidate(program, passed)


def codes_of_row(row: dict[str, Any], where: str) -> Iterator[tuple[str, bool | None]]:
    """(code, the file's verdict) of each sample of a row."""
    if "code" in row:
        yield _code(row["code"], f"{where}, field code"), _verdict(row.get("passed"), f"{where}, field passed")
        return
    name = next((name for name in ("code_list", "output_list") if name in row), None)
    if name is None:
        raise DataError(f"{where}: has none of the fields code, code_list, output_list; no candidate to read")
    texts, verdicts = row[name], row.get("graded_list")
    if not isinstance(texts, list):
        raise DataError(f"{where}, field {name}: a {json_type(texts)} where a list belongs")
    if verdicts is not None and not (isinstance(verdicts, list) and len(verdicts) == len(texts)):
        raise DataError(f"{where}, field graded_list: must be a list of {len(texts)}, as long as {name}")
    for index, text in enumerate(texts):
        code = _code(text, f"{where}, field {name}[{index}]")
        if name == "output_list":
            code = extract_code(text)
        yield code, _verdict(verdicts[index] if verdicts else None, f"{where}, field graded_list[{index}]")


def _code(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where}: a {json_type(text)} where text belongs")
    return extract_code(text) if text.lstrip().startswith(("```", "~~~")) else text


def _verdict(value: Any, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{where}: a {json_type(value)} where true or false belongs")
    return value
