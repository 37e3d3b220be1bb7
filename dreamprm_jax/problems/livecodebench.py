"""LiveCodeBench problems: a local .jsonl file, a folder laid out as the hub's dataset, or the hub itself.

The hub's dataset ``livecodebench/code_generation_lite`` comes with a loading script, which ``datasets`` no longer
runs; its data files are plain JSON lines (``test.jsonl``, ``test2.jsonl``, ...), one a release window, and are read
as such. Releases are cumulative: ``release_v3`` is the first three files; ``v3`` is the third alone, ``v2_v4`` the
second to the fourth. Field names are the official ones (LiveCodeBench commit 28fef95).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.json_rows import json_type, parse_json, read_jsonl, text_field
from dreamprm_jax.problems.private_tests import DEFAULT_MAX_BYTES, parse_tests
from dreamprm_jax.schema import DataError, Problem

DATA_FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
COLUMNS = (
    "question_title",
    "question_content",
    "platform",
    "question_id",
    "contest_id",
    "contest_date",
    "starter_code",
    "difficulty",
    "public_test_cases",
    "private_test_cases",
    "metadata",
)


def load_problems(
    path: str, release: str, max_bytes: int = DEFAULT_MAX_BYTES, cache_dir: Path | None = None
) -> list[Problem]:
    """All problems of a source.

    Args:
      path: A .jsonl file, a folder in the hub's layout, or a dataset id of the hub.
      release: Which release windows to read, of folder and hub (``release_files``).
      max_bytes: The most that one row's packed tests may inflate to.
      cache_dir: Where ``datasets`` keeps its copies; None takes its own default.

    Raises:
      DataError: naming the file, the row and the field; or saying that the hub cannot be reached.
    """
    local = Path(path)
    if local.is_file() or local.suffix == ".jsonl":
        return read_problems(local, max_bytes)
    if local.is_dir():
        files = [str(local / name) for name in release_files(release)]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        files = [f"hf://datasets/{path}/{name}" for name in release_files(release)]
    else:
        raise DataError(f"problems.path {path!r}: no such file or folder, nor a dataset id like owner/name")
    return _problems((row for file in files for row in _dataset_rows(file, cache_dir)), max_bytes)


def read_problems(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> list[Problem]:
    """Problems from one .jsonl file in the official row format."""
    problems = _problems(read_jsonl(path), max_bytes)
    if not problems:
        raise DataError(f"{path}: holds no row")
    return problems


def release_files(release: str) -> list[str]:
    """The data files of a release: release_v1 .. release_v6, release_latest, v3, v2_v4.

    Raises:
      DataError: when there is no such release.
    """
    count = len(DATA_FILES)
    if release in ("release_latest", "latest"):
        return list(DATA_FILES)
    match = re.fullmatch(r"(release_)?v(\d)(?:_v(\d))?", release)
    if match and not (match[1] and match[3]):
        first = 1 if match[1] else int(match[2])
        last = int(match[3] or match[2])
        if 1 <= first <= last <= count:
            return list(DATA_FILES[first - 1 : last])
    raise DataError(
        f"problems.release {release!r}: no such release; there are release_v1 to release_v{count}, release_latest, "
        "single windows (v3) and ranges (v2_v4)"
    )


def problem_from_row(row: Mapping[str, Any], where: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Problem:
    """One official row as a Problem; further columns are ignored. Raises DataError that names the field."""
    text = {name: text_field(row, name, where) for name in COLUMNS}
    if not text["question_id"].strip():
        raise DataError(f"{where}, field question_id: empty")
    where = f"{where} (question_id {text['question_id']})"
    public, private = (
        parse_tests(text[name], f"{where}, field {name}", max_bytes)
        for name in ("public_test_cases", "private_test_cases")
    )
    func_name = _func_name(text["metadata"], f"{where}, field metadata")
    if func_name is None and any(test.testtype == "functional" for test in public + private):
        raise DataError(f"{where}, field metadata: the tests call a function, but no func_name is given")
    return Problem(
        problem_id=text["question_id"],
        title=text["question_title"],
        statement=text["question_content"],
        platform=text["platform"],
        contest_id=text["contest_id"],
        contest_date=_iso_date(text["contest_date"], f"{where}, field contest_date"),
        difficulty=text["difficulty"],
        starter_code=text["starter_code"],
        func_name=func_name,
        public_tests=public,
        private_tests=private,
    )


def _problems(rows: Iterable[tuple[str, Mapping[str, Any]]], max_bytes: int) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        problem = problem_from_row(row, where, max_bytes)
        if problem.problem_id in seen:
            raise DataError(
                f"{where}, field question_id: {problem.problem_id!r} is also at {seen[problem.problem_id]}; remove one"
            )
        seen[problem.problem_id] = where
        problems.append(problem)
    return problems


def _dataset_rows(file: str, cache_dir: Path | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets  # here, as the import takes a second that most runs do not need

    # every column as text: Arrow would otherwise guess a type for each
    features = datasets.Features({name: datasets.Value("string") for name in COLUMNS})
    try:
        rows = datasets.load_dataset(
            "json",
            data_files=[file],
            split="train",
            features=features,
            cache_dir=None if cache_dir is None else str(cache_dir),
        )
    except Exception as error:  # the library and its transports raise many unrelated types
        cause = error.__cause__ or error
        raise DataError(f"{file}: {_advice(file, error)} ({type(cause).__name__}: {cause})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{file}, row {number}", row


def _advice(file: str, error: Exception) -> str:
    if not file.startswith("hf://"):
        return "no such file" if isinstance(error, FileNotFoundError) else "not JSON lines in the official row format"
    return (
        "cannot be read from the hub; check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), or download the dataset's "
        "test*.jsonl files elsewhere and set problems.path to their folder"
    )


def _func_name(metadata: str, where: str) -> str | None:
    value = parse_json(metadata, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {json_type(value)} where a JSON object belongs")
    name = value.get("func_name")
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: func_name {name!r} is not a function's name")
    return name


def _iso_date(text: str, where: str) -> str:
    # Arrow rewrites dates with a space; one spelling everywhere
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not an ISO 8601 date") from error
