"""Comparison of answers by options, and by Python checkers that run in the sandbox."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamprm_jax.config import Config, EvaluateConfig, SandboxConfig
from dreamprm_jax.evaluation.candidate_files import evaluate_files
from dreamprm_jax.problems.livecodebench import problem_from_row
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Comparison, Judge, JudgeResult, JudgeTask, Limits, plan
from dreamprm_jax.sandbox.records import ProblemLimits
from dreamprm_jax.schema import DataError, Outcome, Problem, StepLabel, TestCase, TestedProblem, Verdict
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records


def parse(text: str) -> Comparison:
    comparison = Comparison.parse(text, "here")
    assert comparison is not None
    return comparison


@pytest.mark.parametrize(
    ("options", "answer", "expected", "right"),
    [
        ("exact", "1 2\n", "1 2\n", True),
        ("exact", "1 2", "1 2\n", False),
        ("exact, ignore_case", "YES\n", "yes\n", True),
        ("tokens", "1\n2  3", "1 2\n3\n", True),
        ("tokens", "1 2 3 4", "1 2 3", False),
        ("tokens", "1 2", "1 2 3", False),
        ("ignore_case", "Yes\nNO", "yes\nno\n", True),
        ("ignore_case", "Yes", "yess", False),
        ("unordered", "b 2\na 1\n", "a 1\nb 2", True),
        ("unordered", "a\na\nb", "a\nb\nb", False),
        ("unordered", "a b", "b a", False),
        ("abs=1e-3", "0.5004 x", "0.5 x", True),
        ("abs=1e-3", "0.502", "0.5", False),
        ("abs=1e-3", "1.0 2.0", "1.0", False),
        ("rel=1e-6", "1000000.5", "1000000", True),
        ("rel=1e-6", "-1000000", "1000000", False),
        ("abs=1e-6", "9007199254740993", "9007199254740992", False),  # equal as doubles
        ("abs=1e-6", "1" * 400, "1" * 399 + "2", False),
        ("abs=1e9", "nan", "1", False),
        ("abs=1e9", "inf", "1", False),
        ("abs=1e9", "-inf", "inf", False),
        ("abs=1e9", "1_0", "10", False),
        ("abs=1e9", "1e999999999", "1", False),
        ("abs=1", "", "0", False),
        ("unordered, abs=0.01", "10.001\n9.001", "9\n10", True),
        ("any_of", "b", '["a", "b"]', True),
        ("any_of", "c", '["a", "b"]', False),
        ("any_of, ignore_case", "B", '["a", "b"]', True),
        ("any_of, exact", "b", '["a", "b\\n"]', False),
    ],
)
def test_text_is_compared_as_the_options_say(options: str, answer: str, expected: str, right: bool) -> None:
    assert parse(options).matches(answer, expected, functional=False) is right


@pytest.mark.parametrize(
    ("options", "answer", "expected", "right"),
    [
        ("abs=1e-6", "[0.1000000001,2]", "[0.1, 2]", True),
        ("abs=1e-6", "[0.11,2]", "[0.1, 2]", False),
        ("abs=1e-6", '{"a":[1.0000000001]}', '{"a": [1]}', True),
        ("abs=1e-6", '"1.0000000001"', "1", False),
        ("abs=1e-6", "?", "1", False),
        ("abs=1e-6", "null", "null", True),
        ("abs=1e-6", "null", "0", False),
        ("unordered", "[3,1,2]", "[1, 2, 3]", True),
        ("unordered", "[[2],[1]]", "[[1], [2]]", True),
        ("unordered", "[[2,1]]", "[[1, 2]]", False),
        ("ignore_case", '["A"]', '["a"]', True),
        ("any_of", "2", "[1, 2]", True),
        ("any_of", "[1,2]", "[[1, 2], [2, 1]]", True),
        ("any_of", "3", "[1, 2]", False),
    ],
)
def test_values_are_compared_as_the_options_say(options: str, answer: str, expected: str, right: bool) -> None:
    assert parse(options).matches(answer, expected, functional=True) is right


@pytest.mark.parametrize("text", ["exakt", "abs", "abs=x", "abs=nan", "rel=-1", "exact, abs=1", "missing.py:check"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(DataError, match="here"):
        Comparison.parse(text, "here")


@pytest.fixture(scope="module", params=["faithful", "lcb"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with Judge(request.param, "PORTABLE", workers=1) as judge:
        yield judge


def one(judge: Judge, code: str, checker: str, *tests: TestCase, function: str | None = None) -> JudgeResult:
    task = JudgeTask("key", code, tests or (TestCase("5", "1 4"),), function, comparison=parse(checker))
    (result,) = judge.evaluate([task])
    return result


SUM = """
def check(given, expected, answer):
    words = answer.split()
    return len(words) == 2 and sum(map(int, words)) == int(given)
"""


def test_a_checker_in_the_sandbox_decides(judge: Judge) -> None:
    tests = (TestCase("5", ""), TestCase("7", ""), TestCase("9", ""))
    program = "n = int(input())\nprint(2, n - 2)"
    assert one(judge, program, SUM, *tests).verdict is Verdict.AC
    wrong = one(judge, "n = int(input())\nprint(2, n - 2 if n < 9 else 0)", SUM, *tests)
    assert (wrong.verdict, wrong.tests_passed) == (Verdict.WA, 2)
    assert one(judge, "print(1 / 0)", SUM, *tests).verdict is Verdict.RE
    late = one(judge, "n = int(input())\nif n > 5: raise ValueError\nprint(0, n)", SUM, *tests)
    assert (late.verdict, late.tests_passed) == (Verdict.RE, 1)


def test_a_checker_gets_a_function_s_value_as_json(judge: Judge) -> None:
    checker = (
        "import json\ndef check(given, expected, answer): return sorted(json.loads(answer)) == json.loads(expected)"
    )
    test = TestCase("[1, 2]", "[1, 2]", "functional")
    code = "class Solution:\n    def f(self, items): return items[::-1]"
    assert one(judge, code, checker, test, function="f").verdict is Verdict.AC
    assert one(judge, code.replace("::-1", ":1"), checker, test, function="f").verdict is Verdict.WA


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("print('yes'); return True", "it printed"),
        ("return 'yes'", "returned a str"),
        ("return None", "returned a NoneType"),
        ("import os; os._exit(0)", "ended early"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os.fork(); return True", "a denied system call"),
        ("open('/etc/passwd'); return True", "PermissionError"),
        ("x = bytearray(b'x') * (3 << 30); return True", "MLE"),
        ("return (", "CE"),
    ],
)
def test_a_checker_that_fails_gives_no_verdict(judge: Judge, body: str, said: str) -> None:
    result = one(judge, "print(1, 4)", f"def check(given, expected, answer):\n    {body}\n")
    assert result.verdict is Verdict.INVALID_TASK
    assert "the checker failed on test 0" in result.error
    assert said in result.error


@pytest.mark.parametrize(
    ("body", "printed", "said"),
    [
        ("float(answer) == float(expected)", "'none'", "ValueError"),
        ("int(answer) == int(expected)", "'9' * 5000", "ValueError"),
        ("__import__('json').loads(answer) == 7", "'[' * 100000", "RecursionError"),
        ("eval(answer) == 7", "\"__import__('os').system('true') or 7\"", "a denied system call"),
        ("eval(answer) == 7", "\"__import__('os')._exit(0)\"", "ended early"),
    ],
)
def test_an_answer_that_a_sound_checker_fails_on_is_wrong(judge: Judge, body: str, printed: str, said: str) -> None:
    result = one(judge, f"print({printed})", f"def check(given, expected, answer): return {body}\n", TestCase("", "7"))
    assert result.verdict is Verdict.WA
    assert "the checker fails on the answer, test 0" in result.error
    assert said in result.error


@pytest.mark.parametrize(
    "call",
    [
        "import os; os.fork()",
        "import os; os.system('true')",
        "import os; os.kill(1, 9)",
        "import os; os.mkdir('/tmp/x')",
        "import os; os.listdir('/etc')",
        "import os; list(os.scandir('/'))",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.open('/tmp/x', os.O_WRONLY | os.O_CREAT)",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.socket()",
        "import pathlib; pathlib.Path('/etc/passwd').read_text()",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
        "open('/tmp/x', 'w')",
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_a_denial_that_a_checker_catches_gives_no_verdict(judge: Judge, call: str, outside: bool) -> None:
    attempt = f"try:\n    {call}\nexcept BaseException: pass\n"
    code = "def check(given, expected, answer):\n    {}return True\n"
    inside = attempt.replace("\n", "\n    ")
    result = one(judge, "print(1, 4)", attempt + code.format("") if outside else code.format(inside))
    assert result.verdict is Verdict.INVALID_TASK, result
    assert "denied system call" in result.error or "PermissionError" in result.error


def test_what_is_allowed_is_no_denial(judge: Judge) -> None:
    # zoneinfo and asyncio's event loop are excluded, because both make a denied call themselves.
    modules = (
        "asyncio, base64, bisect, collections, concurrent.futures, csv, ctypes, datetime, decimal, difflib, fractions, "
        "hashlib, heapq, inspect, itertools, json, logging, math, multiprocessing, numpy, pathlib, random, re, "
        "statistics, string, subprocess, tempfile, textwrap, threading, typing, unittest, uuid"
    )
    checker = f"""
from __future__ import annotations
import {modules}, contextlib, io, os, time
try:
    import nothing_of_that_name
except ImportError:
    pass
def check(given, expected, answer):
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        print("lost")
    os.path.exists("/etc/passwd")
    try:
        open("/usr/nothing")
    except FileNotFoundError:
        pass
    return numpy.allclose(numpy.linalg.inv(numpy.eye(2)), numpy.eye(2)) and random.random() < 1
"""
    result = one(judge, "print(1, 4)", checker)
    assert result.verdict is Verdict.AC, result


def test_a_checker_that_hangs_gives_no_verdict(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Limits", lambda: Limits(cpu_seconds=0.3, wall_seconds=1.0))  # limits of the checker
    result = one(judge, "print(1, 4)", "def check(given, expected, answer):\n    while True: pass\n")
    assert (result.verdict, "TLE" in result.error) == (Verdict.INVALID_TASK, True)


def test_a_malformed_expected_output_is_the_task_s_fault(judge: Judge) -> None:
    result = one(judge, "print(1)", "any_of", TestCase("", "1"))
    assert result.verdict is Verdict.INVALID_TASK


def test_a_problem_brings_its_checker_and_limits(tmp_path: Path, judge: Judge) -> None:
    row = dict.fromkeys(("question_title", "question_content", "platform", "question_id", "contest_id"), "x")
    row |= {"contest_date": "2025-01-01", "difficulty": "easy", "private_test_cases": "[]"}
    row["public_test_cases"] = json.dumps([{"input": "", "output": "0.333", "testtype": "stdin"}])
    problem = problem_from_row(row | {"checker": "abs=0.01", "cpu_seconds": 2, "memory_bytes": 64 << 20}, "row 1")
    (result,) = judge.evaluate([JudgeTask.of(problem, "key", "print(1 / 3)", problem.tests)])
    assert result.verdict is Verdict.AC
    hungry = "x = bytearray(b'x') * (200 << 20)\nimport time\ntime.sleep(0.5)\nprint(1 / 3)"
    (result,) = judge.evaluate([JudgeTask.of(problem, "key", hungry, problem.tests)])
    assert result.verdict is Verdict.MLE
    wrong = [("checker", "exakt"), ("cpu_seconds", -1), ("cpu_seconds", 1e300), ("memory_bytes", 1.5)]
    for name, value in [*wrong, ("memory_bytes", 10**20), ("reference_seconds", "1")]:
        with pytest.raises(DataError, match=f"row 1.*{name}"):
            problem_from_row(row | {name: value}, "row 1")


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [("cpu_seconds", 1e300, "1000000000"), ("wall_seconds", float("nan"), "1000000000"), ("wall_seconds", 0, ""),
     ("memory_bytes", 1 << 63, "1125899906842624"), ("output_bytes", 10**20, "1125899906842624")],
)  # fmt: skip
def test_limits_that_no_system_takes_are_named(name: str, value: float, most: str) -> None:
    with pytest.raises(DataError, match=f"sandbox limit {name}=.*: must be a positive number, at most {most}"):
        Limits(**{name: value})


def test_a_reference_s_time_limits_a_problem(tmp_path: Path) -> None:
    """The limit is the reference time times the factor, at least one second. A problem's own limit takes precedence."""
    limits = Limits(reference_factor=4.0)
    for cpu, reference, expected in ((0, 0, 6.0), (0, 0.01, 1.0), (0, 0.5, 2.0), (3.0, 0.5, 3.0)):
        found = limits.of(ProblemLimits(cpu, 0, reference))
        assert (found.cpu_seconds, found.wall_seconds) == (expected, 2 * expected)
    assert Limits().of(ProblemLimits(reference_seconds=0.5)) == Limits()
    assert dataclasses.replace(limits, cpu_seconds=1e-9).of(ProblemLimits(1e9, 0, 0.0)).wall_seconds == 1e9
    with pytest.raises(DataError, match="reference_factor"):
        Limits(reference_factor=-1.0)
    problem = Problem("p", "", "", "", "", "2024-01-01", "easy")
    with pytest.raises(DataError, match=r"reference_factor: no problem of F has the field reference_seconds"):
        limits.check_references([problem], "F")
    limits.check_references([problem, dataclasses.replace(problem, reference_seconds=0.1)], "F")
    Limits().check_references([problem], "F")
    problem = TestedProblem("p", "", "", "", "", "", "", public_tests=(TestCase("", "1"),), reference_seconds=0.02)
    slow = "import time\nwhile time.process_time() < 2.5: pass\nprint(1)"
    judge = Judge.from_config(SandboxConfig(workers=1, reference_factor=50.0))
    with judge:
        (result,) = judge.evaluate([JudgeTask.of(problem, "key", slow, problem.tests)])
        assert (result.verdict, 0.9 < result.cpu_seconds < 2.4) == (Verdict.TLE, True), result


def test_the_judge_s_own_comparison_is_for_tasks_without_one() -> None:
    tests = (TestCase("", "Yes"),)
    with Judge("faithful", "PORTABLE", workers=1, comparison=parse("ignore_case")) as judge:
        plain = JudgeTask("plain", "print('YES')", tests)
        exact = dataclasses.replace(plain, comparison=parse("exact"))
        assert [result.verdict for result in judge.evaluate([plain, exact])] == [Verdict.AC, Verdict.WA]
        assert judge.digest(plain) != judge.digest(exact)


def test_a_problem_s_checker_counts_in_its_digest(tmp_path: Path) -> None:
    from dreamprm_jax.problems.hidden_tests import HiddenTests, write_hidden_tests

    write_hidden_tests(tmp_path / "hidden.parquet", [])
    tests = HiddenTests(tmp_path / "hidden.parquet")
    problem = Problem("p", "", "", "", "", "", "")
    file = tmp_path / "own.py"
    digests = {tests.digest(problem)}
    for text in ("def f(a, b, c): return True", "def f(a, b, c): return False"):
        file.write_text(text)
        digests.add(tests.digest(dataclasses.replace(problem, checker=f"{file}:f")))
    digests.add(tests.digest(dataclasses.replace(problem, checker="exact")))
    digests.add(tests.digest(dataclasses.replace(problem, cpu_seconds=1.0)))
    assert len(digests) == 5


CLOSE = "def close(given, expected, answer):\n    return abs(float(answer) - float(expected)) <= 0.5\n"


def test_the_setting_and_a_row_s_checker_decide_in_evaluate(tmp_path: Path) -> None:
    """A Python checker for all problems, and a different comparison for the problem that names one."""
    row = dict.fromkeys(("question_title", "question_content", "platform", "contest_id", "starter_code"), "x")
    row |= {"contest_date": "2025-01-01", "difficulty": "easy", "private_test_cases": "[]"}
    row["public_test_cases"] = json.dumps([{"input": "", "output": "0.3", "testtype": "stdin"}])
    rows = [row | {"question_id": "own", "checker": "abs=0.05"}, row | {"question_id": "setting"}]
    problems, candidates, checker = tmp_path / "p.jsonl", tmp_path / "c.json", tmp_path / "checker.py"
    problems.write_text("".join(json.dumps(each) + "\n" for each in rows))
    answers = ["print(0.7)", "print(1 / 3)"]
    candidates.write_text(json.dumps([{"question_id": each["question_id"], "code_list": answers} for each in rows]))
    checker.write_text(CLOSE)
    sandbox = SandboxConfig(workers=1, checker=f"{checker}:close")
    config = Config(sandbox=sandbox, evaluate=EvaluateConfig(bootstrap_samples=200))
    evaluate_files(config, problems, candidates, tmp_path / "run")
    outcomes = read_records(tmp_path / "run" / "evaluate_files" / "outcomes.parquet", Outcome)
    assert sorted((one.problem_id, one.verdict.value) for one in outcomes) == [
        ("own", "AC"), ("own", "WA"), ("setting", "AC"), ("setting", "AC")
    ]  # fmt: skip


def test_a_run_s_labels_are_a_checker_s(tmp_path: Path, tiny_config: Config) -> None:
    """Runs the stages up to ``label``. As the checker accepts everything, no program that ends normally is wrong."""
    checker = tmp_path / "checker.py"
    checker.write_text("def check(given, expected, answer):\n    return True\n")
    sandbox = dataclasses.replace(tiny_config.sandbox, checker=f"{checker}:check")
    paths = Paths(tmp_path / "run")
    for stage in ("generate", "label"):
        run_stage(dataclasses.replace(tiny_config, sandbox=sandbox), paths.root, stage)
    outcomes = read_records(paths.outcomes("train"), Outcome)
    labels = read_records(paths.step_labels(), StepLabel)
    assert outcomes
    assert {one.verdict for one in outcomes} == {Verdict.AC}
    assert labels
    assert all(label.passes == label.rollouts for label in labels)
