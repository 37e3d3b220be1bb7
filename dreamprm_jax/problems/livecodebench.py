"""LiveCodeBench problems: a local .jsonl file, a folder laid out as the hub's dataset, or the hub itself.

The data files of ``livecodebench/code_generation_lite`` are plain JSON lines (``test.jsonl``, ``test2.jsonl``, ...),
one a release window. Releases are cumulative: ``release_v3`` is the first three files; ``v3`` is the third alone,
``v2_v4`` the second to the fourth. Field names are the official ones (LiveCodeBench commit 28fef95).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.json_rows import json_type, parse_json, read_jsonl, text_field
from dreamprm_jax.problems.private_tests import DEFAULT_MAX_BYTES, parse_tests
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError, Problem, TestedProblem

DATA_FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
TEXT_COLUMNS = (
    "question_title",
    "question_content",
    "platform",
    "question_id",
    "contest_id",
    "contest_date",
    "difficulty",
)
TEST_COLUMNS = ("public_test_cases", "private_test_cases")


def iterate_problems(
    path: str, release: str, max_bytes: int = DEFAULT_MAX_BYTES, wants_tests: Callable[[Problem], bool] | None = None
) -> Iterator[TestedProblem]:
    """The problems of a source, one row in memory at a time.

    Args:
      path: A .jsonl file, a folder in the hub's layout, or a dataset id of the hub, with ``@revision`` for one that is
        not its newest. With HF_HUB_OFFLINE set the hub's cache is read.
      release: Which release windows to read, of folder and hub (``release_files``).
      max_bytes: The most that one row's packed tests may inflate to.
      wants_tests: Problems for which it returns False are yielded without their hidden tests, which are then not
        decoded. None decodes all.

    Raises:
      DataError: naming the file, the row and the field; or saying that the hub cannot be reached.
    """
    seen: dict[str, str] = {}
    for file in _files(path, release):
        for where, row in read_jsonl(file):
            problem = problem_from_row(row, where, max_bytes, wants_tests)
            if problem.problem_id in seen:
                raise DataError(
                    f"{where}, field question_id: {problem.problem_id!r} is also at {seen[problem.problem_id]}; "
                    "remove one"
                )
            seen[problem.problem_id] = where
            yield problem
    if not seen:
        raise DataError(f"{path}: holds no row")


def load_problems(path: str, release: str = "release_v6", max_bytes: int = DEFAULT_MAX_BYTES) -> list[TestedProblem]:
    """All problems of a source with all tests in memory; see ``iterate_problems``."""
    return list(iterate_problems(path, release, max_bytes))


def _files(path: str, release: str) -> list[Path]:
    local = Path(path)
    if local.is_file() or local.suffix == ".jsonl":
        return [local]
    if local.is_dir():
        return [local / name for name in release_files(release)]
    name = re.fullmatch(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", path)
    if not name:
        raise DataError(f"problems.path {path!r}: no such file or folder, nor a dataset id like owner/name[@revision]")
    import huggingface_hub  # here, as the import takes most of a second

    names = release_files(release)
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name["id"], repo_type="dataset", revision=name["revision"], allow_patterns=names
            )
        )
    except Exception as error:  # the library and its transports raise many unrelated types
        raise DataError(
            f"problems.path {path!r}: cannot be read from the hub; check the network (and HF_HUB_OFFLINE, "
            "HF_ENDPOINT), or download the dataset's test*.jsonl files elsewhere and set problems.path to their folder "
            f"({type(error).__name__}: {error})"
        ) from error
    return [folder / name for name in names]


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


def problem_from_row(
    row: Mapping[str, Any],
    where: str,
    max_bytes: int = DEFAULT_MAX_BYTES,
    wants_tests: Callable[[Problem], bool] | None = None,
) -> TestedProblem:
    """One official row; further columns are ignored. The arguments are those of ``iterate_problems``.

    Re-uploads of the data are read as well: tests and metadata as lists and objects in place of their JSON text, null
    for starter code, metadata and tests that are not there. Three further fields are this package's own: ``checker``
    (``sandbox.checkers``), ``cpu_seconds`` and ``memory_bytes``, the limits of a test; without them the settings hold.

    Raises:
      DataError: naming the field.
    """
    text = {name: text_field(row, name, where) for name in TEXT_COLUMNS}
    for name in TEST_COLUMNS:
        if name not in row:
            text_field(row, name, where)
    if not text["question_id"].strip():
        raise DataError(f"{where}, field question_id: empty")
    where = f"{where} (question_id {text['question_id']})"
    problem = TestedProblem(
        problem_id=text["question_id"],
        title=text["question_title"],
        statement=text["question_content"],
        platform=text["platform"],
        contest_id=text["contest_id"],
        contest_date=_iso_date(text["contest_date"], f"{where}, field contest_date"),
        difficulty=text["difficulty"],
        starter_code="" if row.get("starter_code") is None else text_field(row, "starter_code", where),
        func_name=_func_name(row.get("metadata"), f"{where}, field metadata"),
        public_tests=parse_tests(row["public_test_cases"], f"{where}, field public_test_cases", max_bytes),
        checker="" if row.get("checker") is None else text_field(row, "checker", where),
        cpu_seconds=float(_positive(row, "cpu_seconds", (int, float), where)),
        memory_bytes=int(_positive(row, "memory_bytes", (int,), where)),
    )
    Comparison.parse(problem.checker, f"{where}, field checker")  # for its errors
    if wants_tests is None or wants_tests(problem):
        hidden = parse_tests(row["private_test_cases"], f"{where}, field private_test_cases", max_bytes)
        problem = dataclasses.replace(problem, private_tests=hidden)
    if problem.func_name is None and any(test.testtype == "functional" for test in problem.tests):
        raise DataError(f"{where}, field metadata: the tests call a function, but no func_name is given")
    return problem


def _positive(row: Mapping[str, Any], name: str, types: tuple[type, ...], where: str) -> Any:
    """A limit of the row's own; 0 where it has none."""
    value = row.get(name)
    if value is None:
        return 0
    if type(value) not in types or not 0 < value < 1 << 60:
        raise DataError(f"{where}, field {name}: {value!r} where a positive number belongs")
    return value


def _func_name(metadata: Any, where: str) -> str | None:
    value = parse_json(metadata or "{}", where) if metadata is None or isinstance(metadata, str) else metadata
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {json_type(value)} where a JSON object belongs")
    name = value.get("func_name")
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: func_name {name!r} is not a function's name")
    return name


def _iso_date(text: str, where: str) -> str:
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not an ISO 8601 date") from error
