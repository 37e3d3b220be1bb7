"""The plan for judging one task: which tests run in which child, which results count, and what is run again.

A plan is a generator. It yields runs, is sent the outcome of each, and returns the result. The driver (``judge``) owns
processes and time; the plan owns neither.

Rules in faithful mode:
- Several tests may share a child (``inside.sharing``), within the limits of a single test, so that no test gets more.
- A pass counts immediately. A failure counts only for the first test of a child, whose process no other test has used;
  any other failed test runs again, as the first test of another child.
In lcb mode all tests run in one child, as in the official evaluator, and its alarm limits each test.

In both modes a run is retried (``_Tries``) if the program did not cause the failure: the sandbox failed, the kernel
killed the child for lack of memory, or the program exceeded its time and had to wait for a core.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.sandbox import compare
from dreamprm_jax.sandbox.code_tests import as_calls, has_code_tests
from dreamprm_jax.sandbox.grading import Failure, Grader, ending_failure
from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.records import JudgedTest, JudgeResult, JudgeTask, Limits, escaped_text, safe_text
from dreamprm_jax.schema import TestCase, Verdict

_ATTEMPTS = 6  # children started for one run while the sandbox itself fails
_PAUSE_SECONDS = 0.1  # before the second attempt; doubled before each further one
_LACKED_A_CORE = 0.05  # share of a run's time without a core above which an exceeded time limit is retried
_SHARED_TESTS = 64  # maximum number of tests sent to one child; each needs a descriptor there
_SHARED_BYTES = 64 << 20  # maximum total size of their inputs
_FRAME_BYTES = 1 << 20  # space for frames, in addition to the output
_PATIENCE = 4.0  # maximum duration of a child that lacks a core, as a multiple of its wall time
_OFFICIAL_OUTPUTS = 4  # lcb mode: the single child may write the largest output of this many tests
_OFFICIAL_GRACE = 5  # seconds in addition to (limit + 1) per test, as in compute_code_generation_metrics


@dataclass(frozen=True)
class Run:
    """One child to run."""

    job: Callable[[], bytes]  # packs the job file once a worker is free
    request: jobs.Request
    grader: Grader
    numpy: bool  # whether to run in a worker that has numpy loaded
    turn: Turn = "now"
    pause_seconds: float = 0.0  # minimum wait before it starts


Turn = Literal["now", "share", "alone"]  # immediately; at the end on a share of the workers; at the end, alone
Plan = Generator[Run, jobs.Reply, JudgeResult]


class _Tries:
    """The attempts of one run: whether its ending requires another one, and when."""

    def __init__(self, retry: bool, wall_seconds: float = math.inf) -> None:
        self._retry, self._wall_seconds = retry, wall_seconds
        self._failed = self._killed = self._starved = 0
        self.turn: Turn = "now"
        self.pause_seconds = 0.0

    def sandbox_failed(self, reply: jobs.Reply) -> Failure | None:
        """The failure to report if the sandbox failed too often; None if the run is retried or it did not fail."""
        self.pause_seconds = 0.0
        if reply.ending == jobs.FAILED:
            self._failed += 1
            self.pause_seconds = _PAUSE_SECONDS * 2 ** (self._failed - 1)
            return Failure(Verdict.SANDBOX_ERROR, reply.error, 0) if self._failed >= _ATTEMPTS else None
        if killed_from_outside(reply):
            self._killed += 1
            self.turn = "alone"
            text = "killed by the system, probably for lack of memory: give it more, or lower the memory limit"
            return Failure(Verdict.SANDBOX_ERROR, text, 0) if self._killed > 1 else None
        return None

    def lacked_a_core(self, failure: Failure | None, reply: jobs.Reply) -> bool:
        """Whether an exceeded time limit is retried.

        An exceeded CPU limit is final, because a child without a core uses no CPU time. An exceeded wall limit is final
        because a worker does not count the time in which a child lacked a core, unless it reached the longest duration
        that a worker waits. The official clock counts that time.
        """
        if not self._retry or failure is None or failure.verdict is not Verdict.TLE or self._starved > 1:
            return False
        lacked = (
            reply.ending != jobs.CPU_LIMIT
            and reply.waited_seconds > _LACKED_A_CORE * reply.wall_seconds
            and reply.wall_seconds - reply.waited_seconds < self._wall_seconds
        )
        self._starved += lacked
        self.turn = "share" if self._starved == 1 else "alone"
        return lacked


def killed_from_outside(reply: jobs.Reply) -> bool:
    """Whether another process sent SIGKILL: the program cannot, and a worker reports why it did."""
    return reply.ending == jobs.SIGNALLED and reply.value == signal.SIGKILL


def judge_task(task: JudgeTask, mode: str, tier: str, limits: Limits, retry: bool = True) -> Plan:
    """The plan for one task; with ``retry``, a program that exceeded its time while it lacked a core is retried."""
    total = len(task.tests)
    draft = JudgeResult(task.key, Verdict.AC, 0, total, "", 0.0, mode, tier)
    if has_code_tests(task):  # LiveCodeBench's official evaluator does not have such tests
        task, mode = as_calls(task), "faithful"
    problem = task_problem(task, mode == "lcb")
    if problem is not None:
        return dataclasses.replace(draft, verdict=Verdict.INVALID_TASK, error=problem)
    limits = limits.of(task.limits)
    result = yield from (_official if mode == "lcb" else _faithful)(task, limits, draft, retry)
    return dataclasses.replace(result, error=safe_text(result.error.removeprefix("!")))


def task_problem(task: JudgeTask, official: bool = False) -> str | None:
    """Why the task cannot be judged; None if it can."""
    if not task.tests:
        return "the task has no tests"
    types = {test.testtype for test in task.tests}
    if len(types) > 1:
        return f"the task mixes kinds of tests: {', '.join(sorted(types))}"
    if types == {"functional"}:
        if not task.func_name:
            return "functional tests need func_name"
        if official or _judged_otherwise(task):
            return None  # the official evaluator blames the program
        for index, test in enumerate(task.tests):
            try:
                compare.expected_value(test.output)
            except (ValueError, RecursionError):
                return f"test {index}: the expected output is not JSON, or nested too deeply"
    return None


def _judged_otherwise(task: JudgeTask) -> bool:
    return task.checker is not None or task.comparison is not None


def _faithful(task: JudgeTask, limits: Limits, draft: JudgeResult, retry: bool, kills: bool = False) -> Plan:
    passed, cpu, total = 0, 0.0, len(task.tests)
    shared, tries = not task.per_test, _Tries(retry, limits.wall_seconds)
    while passed < total:
        count = _shareable(task, passed) if shared and tries.turn == "now" else 1
        run = _run(task, limits, jobs.FAITHFUL, passed, count, tries, kills)
        grader = run.grader
        try:
            reply = yield run
            cpu += reply.cpu_seconds
            sandbox_failure = tries.sandbox_failed(reply)
            if sandbox_failure is not None:
                return _finish(draft, passed, cpu, sandbox_failure)
            if reply.ending == jobs.FAILED or killed_from_outside(reply):
                continue
            if reply.ending == jobs.MEMORY_LIMIT:  # the test is known only if there is just one
                if count == 1:
                    failure = ending_failure(reply, official=False)
                    return _finish(_reported(draft, task, grader, reply, failure), passed, cpu, failure)
                shared = False
                continue
            grader.advance()
            if grader.failure is None and not grader.ended and grader.position < passed + count:
                _grade_ending(task, grader, reply, passed)
        finally:
            grader.close()
        refusal = yield from _check(task, grader, draft, retry)
        if grader.position == passed:  # no test passed: the failure is that of a child's first test
            failure = refusal or grader.failure or Failure(Verdict.RE, "no result", -4)
            if tries.lacked_a_core(failure, reply):
                continue
            return _finish(_reported(draft, task, grader, reply, failure), passed, cpu, failure)
        draft = _reported(draft, task, grader, reply, None)
        if grader.position < passed + count:
            shared = False  # the program cannot share a child, or its failure must be confirmed in another child
        passed, tries = grader.position, _Tries(retry, limits.wall_seconds)
        if refusal is not None and not refusal.verdict.is_label:
            return _finish(draft, passed, cpu, refusal)
    return _finish(draft, passed, cpu, None)


def _check(
    task: JudgeTask, grader: Grader, draft: JudgeResult, retry: bool
) -> Generator[Run, jobs.Reply, Failure | None]:
    """Runs the task's Python checker, if it has one, on the answers of a child that has ended.

    Returns:
      Why the first rejected answer does not pass (``grader.position`` is set to its test); None if all are accepted.
    """
    if task.comparison is None or not task.comparison.code or not grader.answers:
        return None
    code, function = task.comparison.program

    def checked(pairs: Iterable[tuple[TestCase, str]]) -> Plan:
        tests = tuple(
            TestCase("\n".join(map(json.dumps, (test.input, test.output, answer))), "true", "functional")
            for test, answer in pairs
        )
        return _faithful(JudgeTask("checker", code, tests, function), Limits(), draft, retry, kills=True)

    outcome = yield from checked(zip(task.tests[grader.first :], grader.answers, strict=False))
    if outcome.verdict is Verdict.AC:
        return None
    grader.position = grader.first + outcome.tests_passed
    wrong = Failure(Verdict.WA, "the checker says no", 0 if task.tests[0].testtype == "functional" else -2)
    if outcome.verdict is Verdict.WA:
        return wrong
    text = f"test {grader.position}: {outcome.verdict} {outcome.error}"
    if outcome.verdict is Verdict.SANDBOX_ERROR:
        return Failure(outcome.verdict, f"the checker failed on {text}", -4)
    # a checker that can judge the expected output itself works: then the answer caused the failure
    test = task.tests[grader.position]
    if (yield from checked([(test, test.output)])).verdict in (Verdict.AC, Verdict.WA):
        return dataclasses.replace(wrong, error=f"the checker fails on the answer, {text}")
    return Failure(Verdict.INVALID_TASK, f"the checker failed on {text}", -4)


def _grade_ending(task: JudgeTask, grader: Grader, reply: jobs.Reply, first: int) -> None:
    """Grades a child that ended before its last test."""
    script = task.tests[0].testtype == "stdin"
    if script and (reply.ending, reply.value) == (jobs.EXITED, 0) and grader.position == first:
        grader.exited_early()
    else:
        grader.failure = ending_failure(reply, official=False)


def _official(task: JudgeTask, limits: Limits, draft: JudgeResult, retry: bool) -> Plan:
    cpu, total, tries = 0.0, len(task.tests), _Tries(retry)
    functional = task.tests[0].testtype == "functional"
    if functional and not _judged_otherwise(task):
        try:
            for test in task.tests:
                compare.expected_value(test.output)
        except (ValueError, RecursionError):
            return _finish(draft, 0, 0.0, Failure(Verdict.RE, "!the expected output is not JSON", -4), official=True)
    while True:
        run = _run(task, limits, jobs.OFFICIAL, 0, total, tries)
        grader = run.grader
        try:
            reply = yield run
            cpu += reply.cpu_seconds
            sandbox_failure = tries.sandbox_failed(reply)
            if sandbox_failure is not None:
                return _finish(draft, 0, cpu, sandbox_failure)
            if reply.ending == jobs.FAILED or killed_from_outside(reply):
                continue
            grader.advance()
            failure = grader.failure
            if failure is None and (grader.position < total or reply.ending == jobs.MEMORY_LIMIT):
                failure = ending_failure(reply, official=True)
                failure = dataclasses.replace(failure, error="!" + failure.error)
        finally:
            grader.close()
        if tries.lacked_a_core(failure, reply):
            continue
        failure = (yield from _check(task, grader, draft, retry)) or failure
        passed = min(grader.position, total - (failure is not None))
        grader.position = passed
        draft = _reported(draft, task, grader, reply, failure, own=total == 1)
        return _finish(draft, passed, cpu, failure, official=True)


def _reported(
    draft: JudgeResult, task: JudgeTask, grader: Grader, reply: jobs.Reply, failure: Failure | None, own: bool = True
) -> JudgeResult:
    """The draft with reports on the tests of one child: those that passed and, if it failed, the one after them.

    ``own``: whether the child ran a single test.
    """
    if not task.per_test:
        return draft
    tests: list[JudgedTest] = []
    for index in range(grader.first, grader.position + (failure is not None)):
        answer = grader.shown[index - grader.first] if index - grader.first < len(grader.shown) else ""
        fault = failure if index == grader.position else None
        verdict, error = (
            (Verdict.AC, "") if fault is None else (fault.verdict, safe_text(fault.error.removeprefix("!")))
        )
        tests.append(JudgedTest(verdict, error, escaped_text(task.tests[index].output), escaped_text(answer)))
    if tests:
        reported = reply.ending in (jobs.EXITED, jobs.CANCELLED) and grader.exit_status is not None
        tests[-1] = dataclasses.replace(
            tests[-1],
            exit_status=grader.exit_status if reported else reply.value if reply.ending == jobs.EXITED else None,
            signal=None if reported or reply.ending == jobs.EXITED else reply.value,
            stderr=escaped_text(reply.stderr),
            denied=None if reply.denied == jobs.NO_LOG else tuple(reply.denied.splitlines()),
        )
    if tests and own:
        tests[-1] = dataclasses.replace(
            tests[-1],
            cpu_seconds=round(reply.cpu_seconds, 4),
            wall_seconds=round(reply.wall_seconds, 4),
            peak_bytes=reply.peak_kib << 10,
        )
    return dataclasses.replace(draft, tests=(*draft.tests, *tests))


def _finish(
    draft: JudgeResult, passed: int, cpu: float, failure: Failure | None, official: bool = False
) -> JudgeResult:
    codes: tuple[int, ...] = ()
    if official:
        whole = failure is not None and failure.error.startswith("!")  # a single code for the whole program
        codes = (() if whole else (1,) * passed) + (() if failure is None else (failure.code,))
    return dataclasses.replace(
        draft,
        verdict=Verdict.AC if failure is None else failure.verdict,
        tests_passed=passed,
        error="" if failure is None else failure.error,
        cpu_seconds=cpu,
        codes=codes,
    )


def _shareable(task: JudgeTask, first: int) -> int:
    """Number of tests from ``first`` on to send to one child."""
    size = 0
    for count, test in enumerate(task.tests[first : first + _SHARED_TESTS]):
        size += len(test.input)
        if count and size > _SHARED_BYTES:
            return count
    return min(_SHARED_TESTS, len(task.tests) - first)


def _run(task: JudgeTask, limits: Limits, mode: int, first: int, count: int, tries: _Tries, kills: bool = False) -> Run:
    functional = task.tests[0].testtype == "functional"
    official = mode == jobs.OFFICIAL

    def pack() -> bytes:
        return jobs.Job(
            mode=mode,
            kind=jobs.FUNCTION if functional else jobs.SCRIPT,
            timeout=max(1, round(limits.cpu_seconds)),
            value_limit=limits.output_bytes,
            code=task.code.encode("utf-8", "surrogatepass"),
            function=(task.func_name or "").encode("utf-8", "surrogatepass"),
            inputs=[test.input.encode("utf-8", "surrogatepass") for test in task.tests[first : first + count]],
            ends_quietly=jobs.ends_quietly(task.code),
            kills=kills,
        ).pack()

    cpu, wall, files = limits.cpu_seconds, limits.wall_seconds, limits.output_bytes + _FRAME_BYTES
    longest = _PATIENCE * wall
    if official:  # its own clock measures wall time
        cpu = wall = longest = _official_seconds(limits, count)
        files = limits.output_bytes * min(count, _OFFICIAL_OUTPUTS) + _FRAME_BYTES
    kind = jobs.RUN_REPORTING if task.per_test else jobs.RUN
    request = jobs.Request(kind, 0, cpu, wall, longest, limits.memory_bytes, files)
    grader = Grader(task, functional, official, first, limits.output_bytes)
    return Run(pack, request, grader, "numpy" in task.code, tries.turn, tries.pause_seconds)


def _official_seconds(limits: Limits, count: int) -> float:
    return (limits.cpu_seconds + 1) * count + _OFFICIAL_GRACE
