"""LiveCodeBench's rows and releases.

The data files of ``livecodebench/code_generation_lite`` are plain JSON lines (``test.jsonl``, ``test2.jsonl``, ...),
one per release window. Releases are cumulative: ``release_v3`` is the first three files; ``v3`` is only the third,
``v2_v4`` the second to the fourth. Field names are the official ones (LiveCodeBench commit 28fef95).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamprm_jax.config.setting import LONGEST, MOST_BYTES
from dreamprm_jax.problems.json_rows import id_field, text_field, type_error
from dreamprm_jax.problems.private_tests import DEFAULT_MAX_BYTES, parse_tests
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError, Problem, TestCase, TestedProblem
from dreamprm_jax.storage import parse_json

DATA_FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
TEXT_COLUMNS = ("question_title", "question_content", "platform", "difficulty")
OPTIONAL_COLUMNS = ("question_title", "platform", "difficulty", "contest_id")  # null counts as empty
OWN_COLUMNS = ("checker", "cpu_seconds", "memory_bytes", "reference_seconds")
TEST_COLUMNS = ("public_test_cases", "private_test_cases")


def download(name: str, revision: str | None, release: str) -> list[Path]:
    """Downloads the files of a release from the hub; with HF_HUB_OFFLINE, finds them in the local cache.

    Raises:
      DataError: if a file cannot be downloaded or found.
    """
    import huggingface_hub  # imported here because it takes most of a second

    names = release_files(release)
    try:
        folder = Path(
            huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=names)
        )
    except Exception as error:  # the library and its transports raise many unrelated types
        raise DataError(
            f"problems.path {name!r}: cannot be read from the hub; check the network (and HF_HUB_OFFLINE, "
            "HF_ENDPOINT), or download the dataset's test*.jsonl files elsewhere and set problems.path to their folder "
            f"({type(error).__name__}: {error})"
        ) from error
    return [folder / name for name in names]


def release_files(release: str) -> list[str]:
    """The data files of a release: release_v1 .. release_v6, release_latest, v3, v2_v4.

    Raises:
      DataError: if there is no such release.
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
    """Parses one official row; unknown columns are ignored. Arguments as in ``problem_files.iterate_problems``.

    It also accepts re-uploads of the data, in which tests and metadata are lists and objects instead of JSON text,
    starter code, metadata, tests or names are null, dates are numbers, or tests have no type. Four additional fields
    are specific to this package: ``checker`` (``sandbox.checkers``), the limits of a test ``cpu_seconds`` and
    ``memory_bytes``, and ``reference_seconds`` (``sandbox.reference_factor``). Without them, the settings apply.

    Raises:
      DataError: if a field is missing or malformed; names the field.
    """
    row = {**row, **{name: "" for name in OPTIONAL_COLUMNS if name in row and row[name] is None}}
    text = {name: text_field(row, name, where) for name in TEXT_COLUMNS}
    text["question_id"] = id_field(row, "question_id", where)
    text["contest_id"] = "" if row.get("contest_id") == "" else id_field(row, "contest_id", where)
    for name in TEST_COLUMNS:
        if name not in row:
            text_field(row, name, where)
    where = f"{where} (question_id {text['question_id']})"
    func_name = _func_name(row.get("metadata"), f"{where}, field metadata")
    kind = "functional" if func_name else "stdin"
    problem = TestedProblem(
        problem_id=text["question_id"],
        title=text["question_title"],
        statement=text["question_content"],
        platform=text["platform"],
        contest_id=text["contest_id"],
        contest_date=_iso_date(row, where),
        difficulty=text["difficulty"],
        starter_code="" if row.get("starter_code") is None else text_field(row, "starter_code", where),
        func_name=func_name,
        public_tests=parse_tests(row["public_test_cases"], f"{where}, field public_test_cases", max_bytes, kind),
        checker="" if row.get("checker") is None else text_field(row, "checker", where),
        cpu_seconds=float(_positive(row, "cpu_seconds", (int, float), LONGEST, where)),
        memory_bytes=int(_positive(row, "memory_bytes", (int,), MOST_BYTES, where)),
        reference_seconds=float(_positive(row, "reference_seconds", (int, float), LONGEST, where)),
    )
    Comparison.parse(problem.checker, f"{where}, field checker")  # raises if it is invalid
    if wants_tests is None or wants_tests(problem):
        hidden = parse_tests(row["private_test_cases"], f"{where}, field private_test_cases", max_bytes, kind)
        problem = dataclasses.replace(problem, private_tests=hidden)
    if problem.func_name is None and any(test.testtype != "stdin" for test in problem.tests):
        raise DataError(f"{where}, field metadata: the tests call a function, but no func_name is given")
    return problem


def _positive(row: Mapping[str, Any], name: str, types: tuple[type, ...], most: float, where: str) -> Any:
    """The value of a field with a positive number of at most ``most``; 0 if the row does not have it."""
    value = row.get(name)
    if value is None:
        return 0
    if type(value) not in types or not 0 < value <= most:
        raise DataError(f"{where}, field {name}: must be a positive number, at most {most:.0f}, not {value!r}")
    return value


def official_fields(problem: Problem) -> dict[str, Any]:
    """The fields of an official row without its tests, in the official order."""
    return {
        "question_title": problem.title,
        "question_content": problem.statement,
        "platform": problem.platform,
        "question_id": problem.problem_id,
        "contest_id": problem.contest_id,
        "contest_date": problem.contest_date,
        "starter_code": problem.starter_code,
        "difficulty": problem.difficulty,
    }


def row_of_problem(problem: TestedProblem) -> dict[str, Any]:
    """A problem as an official row, the inverse of ``problem_from_row``."""

    def cases(tests: tuple[TestCase, ...]) -> str:
        return json.dumps([dataclasses.asdict(test) for test in tests], ensure_ascii=False)

    return {
        **official_fields(problem),
        "public_test_cases": cases(problem.public_tests),
        "private_test_cases": cases(problem.private_tests),
        "metadata": json.dumps({"func_name": problem.func_name} if problem.func_name else {}),
        **{name: value for name in OWN_COLUMNS if (value := getattr(problem, name))},
    }


def _func_name(metadata: Any, where: str) -> str | None:
    value = parse_json(metadata or "{}", where) if metadata is None or isinstance(metadata, str) else metadata
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise type_error(where, value, "a JSON object")
    name = value.get("func_name") or None
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: func_name {name!r} is not a function's name")
    return name


def _iso_date(row: Mapping[str, Any], where: str) -> str:
    """The date in ISO 8601. A number is a time since 1970 in seconds or, as written by pandas, in milliseconds."""
    value = row.get("contest_date")
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 42:
        return datetime.fromtimestamp(value / 1000 if value > 1 << 33 else value, UTC).replace(tzinfo=None).isoformat()
    text = text_field(row, "contest_date", where)
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError as error:
        raise DataError(f"{where}, field contest_date: {text!r} is not an ISO 8601 date") from error
