"""Hidden tests in a separate file: they are read problem by problem; rows of any size are written and read in parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dreamprm_jax import storage
from dreamprm_jax.problems.hidden_tests import HiddenTests, digest_of_tests, write_hidden_tests
from dreamprm_jax.schema import DataError, Problem, ProblemTests, TestCase, TestedProblem
from dreamprm_jax.storage import read_records, write_records

SMALL = ProblemTests("small", (TestCase("1\n", "2\n"), TestCase("[1]", "é", "functional")))
LARGE = ProblemTests("large", tuple(TestCase(f"{i} " * (1 << 20), "x") for i in range(4)))  # larger than a row group


def problem(name: str) -> Problem:
    return Problem(name, "T", "S", "p", "c", "2024-01-01", "easy", public_tests=(TestCase("0", "0"),))


def test_every_problem_has_its_tests_and_no_other_large_one_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "hidden.parquet"
    write_hidden_tests(path, [SMALL, LARGE, ProblemTests("none"), dataclasses.replace(SMALL, problem_id="last")])
    tests = HiddenTests(path)
    groups: list[int] = []
    read = HiddenTests._read
    monkeypatch.setattr(HiddenTests, "_read", lambda self, group: groups.append(group) or read(self, group))
    assert tests.of("small") == SMALL.private_tests == tests.of("last")
    assert tests.of("large") == LARGE.private_tests
    assert tests.of("none") == tests.of("unknown") == ()
    assert tests.all_of(problem("small")) == (TestCase("0", "0"), *SMALL.private_tests)
    assert [tests.has_tests(dataclasses.replace(problem(n), public_tests=())) for n in ("small", "none")] == [
        True,
        False,
    ]
    before = len(groups)
    assert tests.of("large") == LARGE.private_tests
    assert len(groups) == before  # kept from the previous read
    sizes = [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(path).num_row_groups)]
    assert sizes == [6, 2]  # small and large share the first row group, which large filled


def test_digests_tell_tests_apart_without_reading_them(tmp_path: Path, monkeypatch: Any) -> None:
    for name, tests in (("a", SMALL), ("b", SMALL), ("c", ProblemTests("small", SMALL.private_tests[::-1]))):
        write_hidden_tests(tmp_path / name, [tests])
    monkeypatch.setattr(HiddenTests, "_read", None)
    digests = [HiddenTests(tmp_path / name).digest(problem("small")) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert digest_of_tests([TestCase("ab", "c")]) != digest_of_tests([TestCase("a", "bc")])


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        HiddenTests(tmp_path / "none.parquet")
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(DataError, match="text: not a readable Parquet file"):
        HiddenTests(tmp_path / "text")


def test_large_rows_are_written_and_read_in_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    """Arrow cannot convert a batch of nested rows above 2 GiB, so batches are limited by bytes instead of rows."""
    monkeypatch.setattr(storage, "_ROW_GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(storage, "_READ_BYTES", 1 << 20)
    rows = [
        TestedProblem(
            **vars(problem(f"p{i}")), private_tests=tuple(TestCase(f"{i}/{j} " * 15_000, "") for j in range(4))
        )
        for i in range(600)
    ]
    asked: list[int] = []
    batches = pq.ParquetFile.iter_batches

    def iter_batches(self: pq.ParquetFile, size: int, **options: Any) -> Any:
        asked.append(size)
        return batches(self, size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    write_records(tmp_path / "rows.parquet", TestedProblem, rows)
    assert read_records(tmp_path / "rows.parquet", TestedProblem) == rows
    assert asked[0] * 350_000 <= 2 << 20  # rows of 350 to 450 kB
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert file.num_row_groups == 3  # 256 rows per group, which are converted at once
    assert read_records(tmp_path / "rows.parquet", Problem) == [problem(f"p{i}") for i in range(600)]
