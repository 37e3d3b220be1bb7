"""Problems with tests from a file that the user names, for commands that judge: LiveCodeBench rows, or Parquet."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from pathlib import Path

from dreamprm_jax.problems.hidden_tests import HiddenTests, write_hidden_tests
from dreamprm_jax.problems.livecodebench import iterate_problems
from dreamprm_jax.problems.private_tests import DEFAULT_MAX_BYTES
from dreamprm_jax.schema import DataError, Problem, ProblemTests, TestedProblem
from dreamprm_jax.storage import column_names, iterate_records

_BESIDE = "hidden_tests.parquet"  # as a run keeps them


def read_for_judging(
    path: str, hidden: Path, wanted: set[str], release: str = "release_v6", max_bytes: int = DEFAULT_MAX_BYTES
) -> tuple[dict[str, Problem], HiddenTests]:
    """The problems of a source, and their hidden tests in a file, so that few tests are in memory at a time.

    Args:
      path: Rows in the official format (``problems.livecodebench``); a Parquet file with a column ``private_tests``, as
        StepBench has; or a run's own, which has its hidden tests in a file beside it.
      hidden: The file to write the hidden tests to; kept as it is where it exists.
      wanted: Problems whose tests are needed; of the others they are not decoded.
      release: Which release windows to read, of a folder and of the hub.
      max_bytes: The most that one row's packed tests may inflate to.

    Raises:
      DataError: naming the file, the row and the field.
    """
    there = hidden.exists()
    rows: dict[str, Problem] = {}

    def is_wanted(problem: Problem) -> bool:
        return not there and problem.problem_id in wanted

    def tests(source: Iterator[TestedProblem]) -> Iterator[ProblemTests]:
        for tested in source:
            rows[tested.problem_id], of_problem = tested.split()
            if is_wanted(tested):
                yield of_problem

    if path.endswith(".parquet") and "private_tests" not in column_names(Path(path)):
        beside = Path(path).with_name(_BESIDE)
        if not beside.exists():
            raise DataError(f"{path}: has no hidden tests, and {beside} is not there; name LiveCodeBench rows, or both")
        return {one.problem_id: one for one in iterate_records(Path(path), Problem)}, HiddenTests(beside)
    found = tests(_source(path, release, max_bytes, is_wanted))
    if there:
        collections.deque(found, maxlen=0)
    else:
        write_hidden_tests(hidden, found)
    return rows, HiddenTests(hidden)


def _source(path: str, release: str, max_bytes: int, is_wanted: Callable[[Problem], bool]) -> Iterator[TestedProblem]:
    if path.endswith(".parquet"):
        return iterate_records(Path(path), TestedProblem)
    return iterate_problems(path, release, max_bytes, is_wanted)
