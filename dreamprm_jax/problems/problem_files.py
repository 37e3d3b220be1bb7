"""Reads problems from files that the user names, in any supported format.

The format is recognized by the fields: LiveCodeBench's rows (``question_id``), this package's own (``problem_id``), and
those of function-level benchmarks (``task_id``, see ``function_rows``). A file is JSON lines, a JSON list or Parquet.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.function_rows import is_function_row, read_function_row
from dreamprm_jax.problems.hidden_tests import HiddenTests, write_hidden_tests
from dreamprm_jax.problems.json_rows import SUFFIXES, read_rows, skip_or_raise
from dreamprm_jax.problems.livecodebench import DATA_FILES, download, problem_from_row, release_files
from dreamprm_jax.problems.private_tests import DEFAULT_MAX_BYTES
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES
from dreamprm_jax.schema import DataError, Problem, ProblemTests, Skip, TestedProblem
from dreamprm_jax.storage import column_names, iterate_records, record_from_dict

FORMATS = "question_id (LiveCodeBench), task_id (HumanEval, MBPP, evalplus, BigCodeBench) or problem_id (this package)"
_HIDDEN_TESTS = "hidden_tests.parquet"  # the file's name in a run's folder


def iterate_problems(
    path: str,
    release: str = "release_v6",
    max_bytes: int = DEFAULT_MAX_BYTES,
    wants_tests: Callable[[Problem], bool] | None = None,
    skips: list[Skip] | None = None,
    references: dict[str, str] | None = None,
    packages: Collection[str] | None = OFFERED_PACKAGES,
) -> Iterator[TestedProblem]:
    """Yields the problems of a source, with few rows in memory at a time.

    Args:
      path: A file, a folder of files, a folder in the layout of LiveCodeBench's dataset, or the id of such a dataset on
        the hub, optionally with ``@revision``. With HF_HUB_OFFLINE, the hub's cache is read.
      release: Release windows of LiveCodeBench to read from a folder or the hub (``release_files``).
      max_bytes: Maximum decompressed size of one row's packed tests.
      wants_tests: If it returns False for a LiveCodeBench problem, the problem's hidden tests are neither decoded nor
        yielded. None: all tests are decoded.
      skips: Receives the rows that cannot be used. If it is None, the first such row is an error.
      references: Receives the reference solutions by problem id, if rows have them.
      packages: Packages that programs may import (``sandbox.packages``). A problem that needs others cannot be used.
        None: no program is run, so this is not checked.

    Raises:
      DataError: if a row cannot be used and ``skips`` is None (names the file, the row and the field), if there is no
        problem, or if the hub cannot be reached.
    """
    seen: dict[str, str] = {}
    count = len(skips or ())
    for file in problem_paths(path, release):
        for where, row in read_rows(file, skips):
            try:
                problem, reference = _problem(row, where, max_bytes, wants_tests, packages)
                if other := seen.get(problem.problem_id):
                    raise DataError(f"{where}: problem {problem.problem_id!r} is also at {other}; remove one")
            except DataError as error:
                skip_or_raise(skips, where, error)
                continue
            seen[problem.problem_id] = where
            if references is not None and reference:
                references[problem.problem_id] = reference
            yield problem
    if not seen:
        first = "".join(f"; {skip.row}: {skip.reason}" for skip in (skips or [])[count : count + 1])
        raise DataError(f"{path}: contains no problem{first}")


def load_problems(path: str, release: str = "release_v6", max_bytes: int = DEFAULT_MAX_BYTES) -> list[TestedProblem]:
    """All problems of a source, with all tests in memory. See ``iterate_problems``."""
    return list(iterate_problems(path, release, max_bytes))


def _problem(
    row: Mapping[str, Any],
    where: str,
    max_bytes: int,
    wants_tests: Callable[[Problem], bool] | None,
    packages: Collection[str] | None,
) -> tuple[TestedProblem, str]:
    """The problem of a row, and its reference solution or ""."""
    if "question_id" in row:
        return problem_from_row(row, where, max_bytes, wants_tests), ""
    if is_function_row(row):
        found = read_function_row(row, where, packages)
        return found.problem, found.reference
    if "problem_id" in row and "private_tests" in row:
        return record_from_dict(TestedProblem, dict(row), where), ""
    raise DataError(f"{where}: unknown format, needs {FORMATS}; the row has {', '.join(sorted(row)) or 'no fields'}")


def problem_paths(path: str, release: str) -> list[Path]:
    """The files of a source (``iterate_problems``), downloaded if it is on the hub."""
    local = Path(path)
    if local.is_dir():
        if any((local / name).exists() for name in DATA_FILES):
            return [local / name for name in release_files(release)]
        files = sorted(file for file in local.rglob("*") if file.name.endswith(SUFFIXES))
        if not files:
            raise DataError(f"{path}: contains no {', '.join(SUFFIXES)} file")
        return files
    if local.is_file() or path.endswith(SUFFIXES):
        return [local]
    name = re.fullmatch(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", path)
    if not name:
        raise DataError(f"problems.path {path!r}: no such file or folder, nor a dataset id like owner/name[@revision]")
    return download(name["id"], name["revision"], release)


def read_for_judging(
    path: str,
    hidden: Path,
    wanted: set[str] | None,
    release: str = "release_v6",
    max_bytes: int = DEFAULT_MAX_BYTES,
    skips: list[Skip] | None = None,
    packages: Collection[str] = OFFERED_PACKAGES,
) -> tuple[dict[str, Problem], HiddenTests]:
    """The problems of a source, with their hidden tests in a file, so that few tests are in memory at a time.

    Args:
      path: As in ``iterate_problems``; or the problems of a run, whose hidden tests are in a file in the same folder.
      hidden: The file to write the hidden tests to; an existing file is kept.
      wanted: Ids of the problems whose tests are needed, None for all. Other tests are not decoded.
      release: Release windows to read from a folder or the hub.
      max_bytes: Maximum decompressed size of one row's packed tests, in bytes.
      skips: Receives the rows that cannot be used. If it is None, the first such row is an error.
      packages: Packages that programs may import. A problem that needs others cannot be used.

    Raises:
      DataError: as in ``iterate_problems``; also if the hidden tests of a run are missing.
    """
    there = hidden.exists()
    rows: dict[str, Problem] = {}

    def is_wanted(problem: Problem) -> bool:
        return not there and (wanted is None or problem.problem_id in wanted)

    def tests(source: Iterator[TestedProblem]) -> Iterator[ProblemTests]:
        for tested in source:
            rows[tested.problem_id], of_problem = tested.split()
            if is_wanted(tested):
                yield of_problem

    if path.endswith(".parquet") and (names := set(column_names(Path(path)))) >= {"problem_id", "statement"}:
        stored = Path(path).with_name(_HIDDEN_TESTS)
        if "private_tests" not in names:
            if not stored.exists():
                raise DataError(f"{path}: has no hidden tests, and {stored} does not exist; give a file that has them")
            return {one.problem_id: one for one in iterate_records(Path(path), Problem)}, HiddenTests(stored)
    found = tests(iterate_problems(path, release, max_bytes, is_wanted, skips, packages=packages))
    if there:
        collections.deque(found, maxlen=0)
    else:
        write_hidden_tests(hidden, found)
    return rows, HiddenTests(hidden)
