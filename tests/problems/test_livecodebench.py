"""LiveCodeBench rows from a file, from a folder with the hub's layout, and from a hub that cannot be reached."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from dreamprm_jax.problems.livecodebench import problem_from_row, release_files
from dreamprm_jax.problems.problem_files import load_problems
from dreamprm_jax.schema import DataError, TestCase

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "livecodebench"


def row(number: int, **changes: object) -> dict[str, object]:
    private = json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}])
    return {
        "question_title": f"Double {number}",
        "question_content": "Print twice the number.",
        "platform": "atcoder",
        "question_id": f"abc{number}_a",
        "contest_id": f"abc{number}",
        "contest_date": "2024-05-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": private
        if number % 2
        else base64.b64encode(zlib.compress(pickle.dumps(private))).decode("ascii"),
        "metadata": "{}",
        **changes,
    }


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


FUNCTIONAL = json.dumps([{"input": "1", "output": "2", "testtype": "functional"}])


def test_rows_of_re_uploads(tmp_path):
    tests = [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]
    call = [{"input": "1", "output": "2", "testtype": "functional"}]
    rows = [
        row(1, public_test_cases=tests, private_test_cases=tests, metadata={}, starter_code=None),
        row(2, private_test_cases=None, metadata=None),
        row(3, private_test_cases="", public_test_cases=call, metadata={"func_name": "double"}),
    ]
    first, second, third = load_problems(str(write(tmp_path / "p.jsonl", rows)))
    assert (first.starter_code, first.public_tests, first.private_tests) == (
        "",
        first.private_tests,
        (TestCase("2\n", "4\n"),),
    )
    assert (second.func_name, second.private_tests) == (None, ())
    assert (third.func_name, third.private_tests) == ("double", ())
    packed = base64.b64encode(zlib.compress(json.dumps(tests).encode()))
    for changes in (
        {"public_test_cases": {"input": ["2\n"], "output": ["4\n"], "testtype": ["stdin"]}},
        {"public_test_cases": [{"input": "2\n", "output": "4\n"}]},
        {"public_test_cases": json.dumps([tests[0] | {"testtype": "TestType.STDIN"}])},
        {"public_test_cases": packed, "private_test_cases": "null", "metadata": "null"},
        {"contest_date": 1704067200000, "question_id": 3.0, "contest_id": None, "difficulty": None},
        {"contest_date": 1704067200.0, "platform": None, "question_title": None},
    ):
        found = problem_from_row(row(1, public_test_cases=tests, contest_date="2024-01-01") | changes, "f, row 1")
        assert found.public_tests == (TestCase("2\n", "4\n"),)
        assert (found.contest_date, found.func_name) == ("2024-01-01T00:00:00", None)
    for changes, message in (
        ({"private_test_cases": 3}, "must be a list of tests, not a number"),
        ({"question_content": None}, "field question_content: must be a string, not null"),
        ({"contest_date": -1}, "field contest_date: must be a string, not a number"),
        ({"metadata": [1]}, "must be a JSON object, not a list"),
    ):
        with pytest.raises(DataError, match=message):
            load_problems(str(write(tmp_path / "bad.jsonl", [row(1, **changes)])))


def test_rows_of_a_file(tmp_path):
    starter = "class Solution:\n    def double(self, n: int) -> int:\n        "
    rows = [
        row(1),
        row(2),
        row(3, public_test_cases=FUNCTIONAL, private_test_cases="[]", metadata='{"func_name": "double"}'),
    ]
    rows[2]["starter_code"] = starter
    rows[0]["further_column"] = 3
    first, second, third = load_problems(str(write(tmp_path / "p.jsonl", rows)))
    assert (first.problem_id, first.title, first.platform, first.difficulty) == (
        "abc1_a",
        "Double 1",
        "atcoder",
        "easy",
    )
    assert first.contest_date == "2024-05-01T00:00:00"
    assert first.tests == second.tests == (TestCase("1\n", "2\n"), TestCase("2\n", "4\n"))
    assert (first.func_name, third.func_name, third.starter_code) == (None, "double", starter)
    assert third.tests == (TestCase("1", "2", "functional"),)


def test_a_folder_in_the_hubs_layout_gives_the_same_rows(tmp_path):
    for number, name in enumerate(release_files("release_v3")):
        write(tmp_path / name, [row(2 * number), row(2 * number + 1)])
    problems = load_problems(str(tmp_path), "release_v2")
    assert problems == [p for name in ("test.jsonl", "test2.jsonl") for p in load_problems(str(tmp_path / name))]
    assert [p.problem_id for p in load_problems(str(tmp_path), "v3")] == ["abc4_a", "abc5_a"]
    with pytest.raises(DataError, match=r"test4\.jsonl: no such file"):
        load_problems(str(tmp_path), "release_v4")
    write(tmp_path / "test2.jsonl", [row(0)])
    with pytest.raises(DataError, match=r"test2\.jsonl, row 1: problem 'abc0_a' is also at .*test\.jsonl"):
        load_problems(str(tmp_path), "release_v2")
    (tmp_path / "test.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"test\.jsonl, row 1: not valid JSON"):
        load_problems(str(tmp_path), "release_v1")


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("release_v1", [1]),
        ("release_v3", [1, 2, 3]),
        ("release_latest", [1, 2, 3, 4, 5, 6]),
        ("v3", [3]),
        ("v2_v4", [2, 3, 4]),
    ],
)
def test_releases(release, numbers):
    assert release_files(release) == [f"test{number if number > 1 else ''}.jsonl" for number in numbers]


def test_every_version_of_the_official_loader():
    """release_v1 .. release_v6 are cumulative, v1 .. v6 are single windows, v1_v2 .. v5_v6 are the ranges of them."""
    files = release_files("release_latest")
    assert len(files) == 6
    for last in range(1, 7):
        assert release_files(f"release_v{last}") == files[:last]
        assert release_files(f"v{last}") == files[last - 1 : last]
        for first in range(1, last):
            assert release_files(f"v{first}_v{last}") == files[first - 1 : last]


@pytest.mark.parametrize("release", ["release_v7", "release_v0", "v4_v2", "release_v1_v2", "", "6"])
def test_unknown_releases(release):
    with pytest.raises(DataError, match="release_v1 to release_v6"):
        release_files(release)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_content": None}, "field question_content: must be a string, not null"),
        ({"question_id": " "}, "field question_id: empty"),
        ({"contest_date": "May"}, "(question_id abc2_a), field contest_date: 'May' is not an ISO 8601 date"),
        ({"public_test_cases": "x"}, "(question_id abc2_a), field public_test_cases: neither"),
        ({"private_test_cases": 3}, "field private_test_cases: must be a list of tests, not a number"),
        ({"metadata": "[]"}, "(question_id abc2_a), field metadata: must be a JSON object, not a list"),
        ({"metadata": '{"func_name": "a b"}'}, "field metadata: func_name 'a b' is not a function's name"),
        ({"public_test_cases": FUNCTIONAL}, "field metadata: the tests call a function, but no func_name is given"),
        ({"question_id": "abc1_a"}, "problem 'abc1_a' is also at"),
        ({"question_title": "\ud800"}, "field question_title: contains a lone surrogate"),
    ],
)
def test_malformed_rows_name_file_row_and_field(tmp_path, changes, message):
    path = write(tmp_path / "p.jsonl", [row(1), row(2, **changes)])
    with pytest.raises(DataError) as error:
        load_problems(str(path))
    assert str(error.value).startswith(f"{path}, row 2")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no problem"),
        (b"\n{\n", "row 2: not valid JSON"),
        (b"[]", "row 1: must be a JSON object, not a list"),
        (b"{}", "row 1: unknown format"),
        (b'{"question_id": "a"}', "row 1, field question_title: missing"),
        (b'{"a": "\xff"}', "row 1: not valid JSON (UnicodeDecodeError"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_problems(str(path))
    assert f"{path}" in str(error.value)
    assert message in str(error.value)


def test_paths_that_are_nothing():
    with pytest.raises(DataError, match="no such file"):
        load_problems("nowhere/p.jsonl", "release_v1")
    with pytest.raises(DataError, match="nor a dataset id"):
        load_problems("/nowhere/at/all", "release_v1")


def test_a_hub_that_cannot_be_reached_is_a_clear_error():
    program = (
        "from dreamprm_jax.problems.problem_files import load_problems\n"
        "try: load_problems('livecodebench/code_generation_lite', 'release_v6')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert run.stdout.startswith(
        "DataError problems.path 'livecodebench/code_generation_lite': cannot be read from the hub"
    )
    assert "set problems.path to their folder" in run.stdout


def test_all_real_rows(tmp_path):
    path = SHARED / "problems.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here: the 880 real rows are read from it")
    problems = load_problems(str(path))
    assert len(problems) == 880
    assert sum(problem.func_name is not None for problem in problems) == 381
    assert sum(not problem.tests for problem in problems) == 4
    (tmp_path / "test.jsonl").symlink_to(path)
    assert load_problems(str(tmp_path), "release_v1") == problems
