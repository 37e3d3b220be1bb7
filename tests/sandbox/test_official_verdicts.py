"""Agreement with the official evaluator (LiveCodeBench commit 28fef95) in special cases and on 880 real programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest

from dreamprm_jax.problems.problem_files import load_problems
from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import Problem, TestCase, Verdict

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

# Our rule (see docs/security.md): zero tests are not a pass. The official evaluator counts them as a pass.
ZERO_TESTS = {"F:zero_tests"}
# Programs whose result as a plain script differs from the official one. All other programs agree.
RIGHT_AS_SCRIPTS = """
    S:future S:main_notlast S:main_reversed S:from_stdin_iter S:buffer_readline S:buffer_readlines S:open0 S:os_read0
    S:input_then_read S:readline_then_read S:readlines S:quit S:os__exit S:input_rebind_late
    S:global_counter S:import_resource S:threading_nojoin S:stdout_buffer S:os_write S:close_stdout S:state_leak
    F:comment_class F:future
"""
FAITHFUL = {key: {"AC"} for key in RIGHT_AS_SCRIPTS.split()} | {
    "S:return_toplevel": {"CE"},
    "S:sys_exit": {"RE"},  # the exit status is 1
    "S:deque_prelude": {"RE"},  # uses a name that only the official prelude defines
    "S:recursion_49000": {"RE"},  # the official prelude raises the recursion limit
    "F:nested_eq": {"WA"},  # an element claims to equal everything
    "F:bad_input_newline": {"INVALID_TASK"},
}
# Problems without tests in their statements, so there is nothing to run.
WITHOUT_TESTS = {"1873_A", "1873_D", "1883_B", "1883_C", "1899_B", "abc337_e", "abc355_e"}


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text().splitlines()]


def quirk_task(row: dict[str, Any]) -> JudgeTask:
    kind: Literal["stdin", "functional"] = "functional" if row["fn_name"] else "stdin"
    tests = tuple(TestCase(i, o, kind) for i, o in zip(row["inputs"], row["outputs"], strict=True))
    return JudgeTask(row["id"], row["code"], tests, row["fn_name"])


def test_quirks_in_official_mode() -> None:
    quirks = rows("sandbox/quirks.jsonl")
    with Judge("lcb", workers=2) as judge:
        results = list(judge.evaluate(map(quirk_task, quirks)))
    wrong = []
    for row, result in zip(quirks, results, strict=True):
        if row["id"] in ZERO_TESTS:
            assert result.verdict is Verdict.INVALID_TASK
            continue
        if (result.verdict is Verdict.AC) != row["lcb_official"]["ok"]:
            wrong.append((row["id"], result))
        codes = [int(code) for code in row["lcb_official"]["res"]]
        if row["id"] != "F:np_array" and list(result.codes) != codes:  # the official list is unusual: [True, -4]
            wrong.append((row["id"], result.codes, codes))
    assert wrong == []


def test_quirks_as_plain_scripts() -> None:
    quirks = rows("sandbox/quirks.jsonl")
    with Judge("faithful", workers=2) as judge:
        results = list(judge.evaluate(map(quirk_task, quirks)))
    wrong = []
    for row, result in zip(quirks, results, strict=True):
        official = {"AC"} if row["lcb_official"]["ok"] else {"WA", "RE", "CE", "MLE", "TLE"}
        expected = {"INVALID_TASK"} if row["id"] in ZERO_TESTS else FAITHFUL.get(row["id"], official)
        if result.verdict.value not in expected:
            wrong.append((row["id"], result.verdict, expected))
    assert wrong == []


class Real:
    """The 880 problems with o1-mini's programs."""

    def __init__(self) -> None:
        self.official = {row["question_id"]: row for row in rows("livecodebench/official_verdicts_o1_mini.jsonl")}
        candidates = json.loads((DATA / "livecodebench/candidates_o1_mini.json").read_text())
        self.candidates = {row["question_id"]: row for row in candidates}
        self.problems = load_problems(str(DATA / "livecodebench/problems.jsonl"))

    def task(self, problem: Problem, tests: tuple[TestCase, ...]) -> JudgeTask:
        code = self.candidates[problem.problem_id]["code_list"][0]
        return JudgeTask(problem.problem_id, code, tests, problem.func_name)

    def judge(self, mode: str, private: bool) -> dict[str, JudgeResult]:
        def tests(problem: Problem) -> tuple[TestCase, ...]:
            return problem.private_tests if private else problem.public_tests

        tasks = (self.task(problem, tests(problem)) for problem in self.problems if tests(problem) or not private)
        limits = Limits(cpu_seconds=4.0, wall_seconds=8.0)
        with Judge(mode, limits=limits, workers=2, retry_share=0) as judge:
            return {result.key: result for result in judge.evaluate(tasks)}

    def judge_patiently(self, keys: Iterable[str], mode: str, private: bool) -> dict[str, JudgeResult]:
        """Judges one program at a time with generous limits, so that a busy machine has no effect."""
        by_key = {problem.problem_id: problem for problem in self.problems}
        tasks = (self.task(by_key[k], by_key[k].private_tests if private else by_key[k].public_tests) for k in keys)
        with Judge(mode, limits=Limits(cpu_seconds=40.0, wall_seconds=80.0), workers=1) as judge:
            return {result.key: result for result in judge.evaluate(tasks)}

    def recorded(self, key: str) -> int:
        """The error code that the official evaluator recorded."""
        return int(json.loads(self.candidates[key]["metadata"][0])["error_code"])

    def passes_hidden(self, key: str) -> bool:
        return bool(self.candidates[key]["graded_list"][0])


@pytest.fixture(scope="module")
def real() -> Real:
    rows("livecodebench/problems.jsonl")
    return Real()


@pytest.mark.slow
def test_real_programs_in_official_mode(real: Real) -> None:
    results = real.judge("lcb", private=False)
    late = [k for k, result in results.items() if result.verdict is Verdict.TLE and -3 not in real.official[k]["codes"]]
    results |= real.judge_patiently(late, "lcb", private=False)
    wrong, apart = [], set()
    for key, result in results.items():
        if key in WITHOUT_TESTS:
            assert result.verdict is Verdict.INVALID_TASK
            continue
        row = real.official[key]
        timed_out = -3 in row["codes"] or result.verdict is Verdict.TLE  # depends on the speed of the machine
        if row["uses_threads"] or timed_out:
            apart.add(key)
        elif list(result.codes) != [int(code) for code in row["codes"]]:
            wrong.append((key, result, row))
    assert wrong == []
    threads = sum(row["uses_threads"] for row in real.official.values())
    assert len(apart) <= threads + 10


@pytest.mark.slow
def test_real_programs_as_plain_scripts(real: Real) -> None:
    results = real.judge("faithful", private=False)
    late = [key for key, result in results.items() if result.verdict is Verdict.TLE and real.passes_hidden(key)]
    results |= real.judge_patiently(late, "faithful", private=False)
    failed = {key for key, result in results.items() if real.passes_hidden(key) and result.verdict is not Verdict.AC}
    assert failed <= WITHOUT_TESTS
    assert sum(result.verdict is Verdict.AC for result in results.values()) >= 680


# The verdicts that correspond to each error code in the official failure record.
RECORDED = {-2: {Verdict.WA}, -3: {Verdict.TLE}, -4: {Verdict.RE, Verdict.CE, Verdict.MLE}}
# The answer is an integer with millions of digits. The official evaluator fails to record it (-4); here it is OLE.
TOO_MANY_DIGITS = {"3414"}
# ``open(0)`` opened the official evaluator's own standard input, which never ended (-3). Here it is empty.
READ_THE_EVALUATORS_INPUT = {"abc315_b", "abc349_a", "abc359_b", "abc365_b"}

# Fills memory until the time limit (-3). The official evaluator has no memory limit; here, either may come first.
FILLS_MEMORY = {"abc361_f"}


@pytest.mark.slow
def test_recorded_failures_come_back(real: Real) -> None:
    results = real.judge("lcb", private=True)
    assert len(results) == 220
    late = [key for key, result in results.items() if result.verdict is Verdict.TLE and real.recorded(key) != -3]
    results |= real.judge_patiently(late, "lcb", private=True)
    other = {}
    for key, result in results.items():
        if "threading" in real.candidates[key]["code_list"][0] and result.verdict in (Verdict.AC, Verdict.WA):
            continue  # the official evaluator does not wait for threads: their output counts only if it is in time
        if key in FILLS_MEMORY and result.verdict is Verdict.MLE:
            continue
        if result.verdict not in RECORDED[real.recorded(key)]:
            other[key] = result.verdict
    explained = dict.fromkeys(TOO_MANY_DIGITS, Verdict.OLE) | dict.fromkeys(READ_THE_EVALUATORS_INPUT, Verdict.RE)
    assert other == explained  # all others fail in the recorded way
    for key in READ_THE_EVALUATORS_INPUT:
        assert "open(0)" in real.candidates[key]["code_list"][0]
