"""The hidden tests of a run, in one Parquet file that is read problem by problem.

LiveCodeBench has gigabytes of hidden tests. Each row is one test, and all rows of a problem are in one row group. A row
group is complete as soon as it has 4 MiB, so it contains at most one large problem besides small ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError, Problem, ProblemTests, TestCase, canonical_json, content_hash
from dreamprm_jax.storage import atomic_path, open_parquet

_GROUP_BYTES = 4 << 20  # a row group with at least this size gets no further problem
_DIGESTS = "dreamprm.digests"  # file metadata: problem id -> hash of its hidden tests
_SCHEMA = pa.schema([(name, pa.string()) for name in ("problem_id", "input", "output", "testtype")])


def write_hidden_tests(path: Path, problems: Iterable[ProblemTests]) -> None:
    """Writes the tests of all problems, with one row group in memory at a time.

    Args:
      path: Path of the file.
      problems: Each problem once, in any order; consumed lazily.

    Raises:
      DataError: if the disk is full.
    """
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd", use_dictionary=["problem_id", "testtype"]) as writer,
    ):
        group: list[pa.Table] = []
        digests: dict[str, str] = {}
        for problem in problems:
            digests[problem.problem_id] = digest_of_tests(problem.private_tests)
            group.append(_table(problem))
            if sum(table.nbytes for table in group) >= _GROUP_BYTES:
                _write_group(writer, group)
                group = []
        if group:
            _write_group(writer, group)
        writer.add_key_value_metadata({_DIGESTS: canonical_json(digests)})


def digest_of_tests(tests: Iterable[TestCase]) -> str:
    """Hash of the inputs, expected outputs and types of tests, in order."""
    return content_hash(*(part for test in tests for part in (test.input, test.output, test.testtype)), digits=16)


def _table(problem: ProblemTests) -> pa.Table:
    tests = problem.private_tests
    columns = [
        [problem.problem_id] * len(tests),
        [test.input for test in tests],
        [test.output for test in tests],
        [test.testtype for test in tests],
    ]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=_SCHEMA)


def _write_group(writer: pq.ParquetWriter, group: list[pa.Table]) -> None:
    table = pa.concat_tables(group)
    if len(table):
        writer.write_table(table, row_group_size=len(table))


class HiddenTests:
    """Reads the hidden tests of one problem at a time. Thread-safe.

    The last row group stays in memory, because the programs of a problem are judged one after another.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file and reads which row group holds each problem.

        Raises:
          DataError: if the file is missing or not readable.
        """
        self.path = path
        self._lock = threading.Lock()
        self._group_of: dict[str, int] = {}
        self._kept: tuple[int, dict[str, tuple[TestCase, ...]]] = (-1, {})
        with open_parquet(path) as file:
            self._digests: dict[str, str] = json.loads((file.metadata.metadata or {}).get(_DIGESTS.encode(), b"{}"))
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["problem_id"]).column(0)
                self._group_of.update(dict.fromkeys(ids.unique().to_pylist(), group))

    def of(self, problem_id: str) -> tuple[TestCase, ...]:
        """The hidden tests of a problem; empty if it has none."""
        group = self._group_of.get(problem_id)
        if group is None:
            return ()
        with self._lock:
            if self._kept[0] != group:
                self._kept = (-1, {})  # frees the memory before the next group is read
                self._kept = (group, self._read(group))
            return self._kept[1][problem_id]

    def has_tests(self, problem: Problem) -> bool:
        """Whether a problem has any test."""
        return bool(problem.public_tests) or problem.problem_id in self._group_of

    def digest(self, problem: Problem) -> str:
        """Hash of all tests of a problem, its checker and its limits. Does not read the hidden tests."""
        comparison = Comparison.parse(problem.checker, f"problem {problem.problem_id}, field checker")
        own = f"{comparison and comparison.digest}/{problem.cpu_seconds}/{problem.memory_bytes}"
        own += f"/{problem.reference_seconds}" if problem.reference_seconds else ""
        tests = digest_of_tests(problem.public_tests) + self._digests.get(problem.problem_id, "")
        return tests + ("" if own == "None/0.0/0" else content_hash(own, digits=16))

    def all_of(self, problem: Problem) -> tuple[TestCase, ...]:
        """All tests of a problem in judging order: public before hidden."""
        return problem.public_tests + self.of(problem.problem_id)

    def _read(self, group: int) -> dict[str, tuple[TestCase, ...]]:
        tests: dict[str, list[TestCase]] = {}
        try:
            with open_parquet(self.path) as file:
                for batch in file.iter_batches(16, row_groups=[group]):
                    for row in batch.to_pylist():
                        case = TestCase(row["input"], row["output"], row["testtype"])
                        tests.setdefault(row["problem_id"], []).append(case)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: row group {group} is damaged ({error})") from error
        return {problem_id: tuple(cases) for problem_id, cases in tests.items()}
