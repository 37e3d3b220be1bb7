"""How one task is judged: which tests run in which child, what is believed, what is run again.

A plan is a generator. It yields the runs it wants, is sent what came of each, and returns the result; whoever drives
it (``judge``) owns processes and time, and nothing here does.

Rules in faithful mode:
- Several tests may share a child (``inside.sharing``), within the limits of a single test, so that no test gets more.
- A pass counts at once. A failure counts only of the first test of a child, whose process nothing has touched before;
  any other failing test runs again, first in a child of its own.
- A time limit exceeded while other programs were running is tried once more, alone.
In lcb mode all tests run in one child, as they do officially, and its alarm limits each test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass

from dreamprm_jax.sandbox import compare
from dreamprm_jax.sandbox.grading import Failure, Grader, ending_failure
from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.records import JudgeResult, JudgeTask, Limits, safe_text
from dreamprm_jax.schema import Verdict

_ATTEMPTS = 3  # children started for one run while the sandbox itself fails
_SHARED_TESTS = 64  # tests sent to one child: each holds a descriptor there
_SHARED_BYTES = 64 << 20  # and their inputs together
_FRAME_BYTES = 1 << 20  # room for frames beside the output
_PATIENCE = 4.0  # times its wall time that a child has which others keep from a core
_OFFICIAL_OUTPUTS = 4  # lcb mode: the one child may leave this many tests' largest outputs
_OFFICIAL_GRACE = 5  # seconds beyond (limit + 1) a test, as in compute_code_generation_metrics


@dataclass(frozen=True)
class Run:
    """One child to run."""

    job: Callable[[], bytes]  # packs the job file, when a worker is free
    request: jobs.Request
    grader: Grader
    numpy: bool  # in a worker that has numpy loaded
    alone: bool = False  # while no other program runs


@dataclass(frozen=True)
class Ran:
    """What came of it."""

    reply: jobs.Reply
    alone: bool  # no other program ran at the same time


Plan = Generator[Run, Ran, JudgeResult]


def judge_task(task: JudgeTask, mode: str, tier: str, limits: Limits, retry_alone: bool = True) -> Plan:
    """The plan for one task.

    Args:
      task: the program and its tests.
      mode: ``faithful`` or ``lcb``.
      tier: the tier that holds, for the result.
      limits: of one test.
      retry_alone: whether a time limit exceeded beside other programs is tried once more, alone.
    """
    total = len(task.tests)
    draft = JudgeResult(task.key, Verdict.AC, 0, total, "", 0.0, mode, tier)
    problem = task_problem(task, mode == "lcb")
    if problem is not None:
        return dataclasses.replace(draft, verdict=Verdict.INVALID_TASK, error=problem)
    result = yield from (_official if mode == "lcb" else _faithful)(task, limits, draft, retry_alone)
    return dataclasses.replace(result, error=safe_text(result.error.removeprefix("!")))


def task_problem(task: JudgeTask, official: bool = False) -> str | None:
    """Why the task cannot be judged, if so."""
    if not task.tests:
        return "the task has no tests"
    types = {test.testtype for test in task.tests}
    if len(types) > 1:
        return "the task mixes stdin and functional tests"
    if types == {"functional"}:
        if not task.func_name:
            return "functional tests need func_name"
        if official or task.checker is not None:
            return None  # the official evaluator blames the program
        for index, test in enumerate(task.tests):
            try:
                compare.expected_value(test.output)
            except ValueError:
                return f"test {index}: the expected output is not JSON"
    return None


def _faithful(task: JudgeTask, limits: Limits, draft: JudgeResult, retry_alone: bool) -> Plan:
    passed, cpu, total = 0, 0.0, len(task.tests)
    shared, alone, failed_attempts = True, False, 0
    while passed < total:
        count = _shareable(task, passed) if shared and not alone else 1
        run = _run(task, limits, jobs.FAITHFUL, passed, count, alone)
        try:
            ran = yield run
            reply, grader = ran.reply, run.grader
            cpu += reply.cpu_seconds
            if reply.ending == jobs.FAILED:
                failed_attempts += 1
                if failed_attempts >= _ATTEMPTS:
                    return _finish(draft, passed, cpu, Failure(Verdict.SANDBOX_ERROR, reply.error, 0))
                continue
            grader.advance()
            if grader.failure is None and not grader.ended and grader.position < passed + count:
                _grade_ending(task, grader, reply, passed)
        finally:
            run.grader.close()
        if grader.position == passed:  # nothing passed: the failure is of a child's first test
            failure = grader.failure or Failure(Verdict.RE, "no result", -4)
            if failure.verdict is Verdict.TLE and retry_alone and not (alone or ran.alone):
                alone = True
                continue
            return _finish(draft, passed, cpu, failure)
        if grader.position < passed + count:
            shared = False  # it does not share, or its failure needs a child of its own
        passed, alone, failed_attempts = grader.position, False, 0
    return _finish(draft, passed, cpu, None)


def _grade_ending(task: JudgeTask, grader: Grader, reply: jobs.Reply, first: int) -> None:
    """A child that ended before its last test said how it went."""
    script = task.tests[0].testtype == "stdin"
    if script and (reply.ending, reply.value) == (jobs.EXITED, 0) and grader.position == first:
        grader.exited_early()
    else:
        grader.failure = ending_failure(reply, official=False)


def _official(task: JudgeTask, limits: Limits, draft: JudgeResult, retry_alone: bool) -> Plan:
    cpu, total, alone = 0.0, len(task.tests), False
    functional = task.tests[0].testtype == "functional"
    if functional and task.checker is None:
        try:
            for test in task.tests:
                compare.expected_value(test.output)
        except ValueError:
            return _finish(draft, 0, 0.0, Failure(Verdict.RE, "!the expected output is not JSON", -4), official=True)
    failed_attempts = 0
    while True:
        run = _run(task, limits, jobs.OFFICIAL, 0, total, alone)
        try:
            ran = yield run
            reply, grader = ran.reply, run.grader
            cpu += reply.cpu_seconds
            if reply.ending == jobs.FAILED:
                failed_attempts += 1
                if failed_attempts >= _ATTEMPTS:
                    return _finish(draft, 0, cpu, Failure(Verdict.SANDBOX_ERROR, reply.error, 0))
                continue
            grader.advance()
            failure = grader.failure
            if failure is None and grader.position < total:
                failure = ending_failure(reply, official=True)
                failure = dataclasses.replace(failure, error="!" + failure.error)
        finally:
            run.grader.close()
        if failure is not None and failure.verdict is Verdict.TLE and retry_alone and not (alone or ran.alone):
            alone = True
            continue
        return _finish(draft, grader.position, cpu, failure, official=True)


def _finish(
    draft: JudgeResult, passed: int, cpu: float, failure: Failure | None, official: bool = False
) -> JudgeResult:
    codes: tuple[int, ...] = ()
    if official:
        whole = failure is not None and failure.error.startswith("!")  # one code for the whole program
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
    """How many of the tests from ``first`` on are sent to one child."""
    size = 0
    for count, test in enumerate(task.tests[first : first + _SHARED_TESTS]):
        size += len(test.input)
        if count and size > _SHARED_BYTES:
            return count
    return min(_SHARED_TESTS, len(task.tests) - first)


def _run(task: JudgeTask, limits: Limits, mode: int, first: int, count: int, alone: bool) -> Run:
    functional = task.tests[0].testtype == "functional"
    official = mode == jobs.OFFICIAL

    def pack() -> bytes:
        return jobs.Job(
            mode=mode,
            kind=jobs.FUNCTION if functional else jobs.SCRIPT,
            first=first,
            timeout=max(1, round(limits.cpu_seconds)),
            value_limit=limits.output_bytes,
            code=task.code.encode("utf-8", "surrogatepass"),
            function=(task.func_name or "").encode("utf-8", "surrogatepass"),
            inputs=[test.input.encode("utf-8", "surrogatepass") for test in task.tests[first : first + count]],
        ).pack()

    cpu, wall, files = limits.cpu_seconds, limits.wall_seconds, limits.output_bytes + _FRAME_BYTES
    longest = _PATIENCE * wall
    if official:  # whose own clock is that on the wall
        cpu = wall = longest = (limits.cpu_seconds + 1) * count + _OFFICIAL_GRACE
        files = limits.output_bytes * min(count, _OFFICIAL_OUTPUTS) + _FRAME_BYTES
    request = jobs.Request(jobs.RUN, 0, cpu, wall, longest, limits.memory_bytes, files)
    grader = Grader(task, functional, official, first, limits.output_bytes)
    return Run(pack, request, grader, numpy="numpy" in task.code, alone=alone)
