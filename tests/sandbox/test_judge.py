"""The judge as its callers use it: verdicts, order, streaming, limits, recovery, cleanup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from attack_harness import session_members

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.worker import Worker
from dreamprm_jax.schema import DataError, TestCase, Verdict

SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
SUMS = (TestCase("3 4\n", "7\n"), TestCase("10 20\n", "30\n"), TestCase("1 1\n", "2\n"))
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=2.0, memory_bytes=256 << 20, output_bytes=1 << 20)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(limits=LIMITS, workers=2) as opened:
        yield opened


def one(
    judge: Judge, code: str, tests: tuple[TestCase, ...] = SUMS, func_name: str | None = None, **more: Any
) -> JudgeResult:
    results = list(judge.evaluate([JudgeTask("key", code, tests, func_name, **more)]))
    assert len(results) == 1
    assert results[0].key == "key"
    return results[0]


@pytest.mark.parametrize(
    ("code", "verdict", "passed"),
    [
        (SUM, "AC", 3),
        ("print(7)", "WA", 1),
        ("x = (", "CE", 0),
        ("1 / 0", "RE", 0),
        (SUM + "import sys\nsys.exit(3)", "RE", 0),
        (SUM + "import sys\nsys.exit()", "AC", 3),
        ("if input() == '10 20': raise ValueError\nprint(7)", "RE", 1),
        ("x = bytearray(1 << 40)", "MLE", 0),
        ("while True: print('x' * 1000)", "OLE", 0),
        ("import os\nos.abort()", "RE", 0),
        ("import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)", "AC", 3),
        ("import os\nos._exit(0)", "WA", 0),
        ("print(sum(map(int, open(0).read().split())))", "AC", 3),
        ("import atexit\natexit.register(print, sum(map(int, input().split())))", "AC", 3),
        ("import sys\nprint(sum(int(x) for line in sys.stdin for x in line.split()))", "AC", 3),
        ("import numpy as np\nprint(np.sum(list(map(int, input().split()))))", "AC", 3),
        ("from __future__ import annotations\n" + SUM, "AC", 3),
        ("", "WA", 0),
    ],
)
def test_verdicts_of_scripts(judge: Judge, code: str, verdict: str, passed: int) -> None:
    result = one(judge, code)
    assert (result.verdict.value, result.tests_passed, result.tests_total) == (verdict, passed, 3), result
    assert (result.mode, result.tier) == ("faithful", "PORTABLE")
    assert (result.error == "") == (verdict == "AC")
    assert result.cpu_seconds > 0


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("class Solution:\n  def f(self, a: List[int], k): return sorted(a)[:k]", "AC"),
        ("def f(a, k): return tuple(sorted(a)[:k])", "AC"),
        ("class Solution:\n  def f(self, a, k): print('noise'); return heapq.nsmallest(k, a)", "AC"),
        ("class Solution:\n  def f(self, a, k): return a", "WA"),
        ("class Solution:\n  def g(self, a, k): return a", "RE"),
        ("class Solution:\n  def f(self, a): return a", "RE"),
        ("class Solution:\n  def f(self, a, k): return E()\nclass E(list):\n  def __eq__(self, o): return True", "WA"),
    ],
)
def test_verdicts_of_functions(judge: Judge, code: str, verdict: str) -> None:
    tests = (TestCase("[3,1,2]\n2", "[1,2]", "functional"), TestCase("[]\n1", "[]", "functional"))
    assert one(judge, code, tests, "f").verdict.value == verdict


@pytest.mark.parametrize(
    ("tests", "func_name", "part"),
    [
        ((), None, "no tests"),
        ((TestCase("1", "1", "functional"),), None, "func_name"),
        ((TestCase("1", "1", "functional"), TestCase("1", "1")), "f", "mixes"),
        ((TestCase("1", "[1", "functional"),), "f", "not JSON"),
        ((TestCase("[1", "1", "functional"),), "f", "not one JSON value"),
    ],
)
def test_a_broken_task_is_not_the_programs_fault(judge: Judge, tests: Any, func_name: str | None, part: str) -> None:
    result = one(judge, "def f(a): return a", tests, func_name)
    assert result.verdict is Verdict.INVALID_TASK
    assert part in result.error


def test_time_limits_are_cpu_time_and_wall_time(judge: Judge) -> None:
    spin = one(judge, "while True: pass")
    assert spin.verdict is Verdict.TLE
    assert 0.9 < spin.cpu_seconds < 1.5  # it already runs alone, so it is not retried
    for code in ("import time\ntime.sleep(100)", "import time\nwhile True: time.sleep(0.01)"):
        start = time.monotonic()
        sleep = one(judge, code)
        assert sleep.verdict is Verdict.TLE
        assert "wall" in sleep.error
        assert time.monotonic() - start < 7  # the limit is 2 s; a program that lacks a core would get 8 s
    # Each of the three tests of 0.5 s is within the limit of 1 s, although their sum is not.
    half = "import time\ns = time.process_time()\nwhile time.process_time() < s + 0.5: pass\n"
    assert one(judge, half + SUM).verdict is Verdict.AC


def test_a_program_that_others_keep_from_a_core_has_its_cpu_time() -> None:
    """Four processes share one core, so 0.8 s of CPU time take about 3 s. The wall limit is 2 s."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(own)})  # inherited by the judge's workers and the other processes
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    computes = "import time\nwhile time.process_time() < {}: pass\n"
    try:
        with Judge(limits=Limits(cpu_seconds=1.0, wall_seconds=2.0), workers=1) as judge:
            assert one(judge, computes.format(0.8) + SUM, SUMS[:1]).verdict is Verdict.AC
            assert one(judge, "while True: pass").verdict is Verdict.TLE
            start = time.monotonic()
            sleep = one(judge, computes.format(0.3) + "time.sleep(99)")
            assert (sleep.verdict, "wall" in sleep.error) == (Verdict.TLE, True)
            assert time.monotonic() - start < 6  # less than four times its wall limit
    finally:
        os.sched_setaffinity(0, own)
        for other in others:
            other.kill()
            other.wait()


def test_the_wall_limit_ends_a_program_that_has_a_core() -> None:
    with Judge(limits=Limits(cpu_seconds=20.0, wall_seconds=1.0), workers=1) as patient:
        spin = one(patient, "while True: pass")
    assert spin.verdict is Verdict.TLE
    assert spin.cpu_seconds < 4.5


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_sleeping_and_computing_in_turns_is_bounded(mode: str) -> None:
    """It looks like a program that lacks a core. The official evaluator limits wall time, with or without the alarm."""
    code = "import signal, time\nsignal.alarm(0)\nwhile True:\n  s = time.process_time()\n"
    code += "  while time.process_time() < s + 0.03: pass\n  time.sleep(0.2)"
    start = time.monotonic()
    with Judge(mode, limits=Limits(cpu_seconds=2.0, wall_seconds=1.0), workers=1, retry_share=0) as judge:
        assert one(judge, code, SUMS[:1]).verdict is Verdict.TLE
    assert time.monotonic() - start < 15  # expected: 4 s if faithful, 8 s if lcb


def test_the_kernel_ends_a_program_whose_worker_is_late() -> None:
    """The worker is stopped while its child computes. The kernel's CPU limit is reported as a time limit, not MLE."""
    with Judge(limits=Limits(cpu_seconds=1.0, wall_seconds=60.0), workers=1) as judge:
        assert one(judge, SUM).verdict is Verdict.AC
        (worker,) = judge.worker_pids()

        def hold_up() -> None:
            deadline = time.monotonic() + 60
            while len(session_members({worker})) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(worker, signal.SIGSTOP)
            while len(session_members({worker})) > 1 and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(worker, signal.SIGCONT)

        holder = threading.Thread(target=hold_up, daemon=True)
        holder.start()
        spin = one(judge, "while True: pass")
        holder.join()
    assert (spin.verdict, spin.error) == (Verdict.TLE, "CPU time limit exceeded")
    assert spin.cpu_seconds > 2


def test_cpu_time_and_sleep_are_not_tried_again() -> None:
    """Neither program lacked a core: one used its CPU time, and the other needed none."""
    with Judge(limits=Limits(cpu_seconds=1.0, wall_seconds=2.0), workers=2) as judge:
        codes = ["while True: pass", "import time\ntime.sleep(60)"] * 2
        start = time.monotonic()
        results = list(judge.evaluate(JudgeTask(str(index), code, SUMS) for index, code in enumerate(codes)))
        assert time.monotonic() - start < 20  # retries one after the other would take 4 x 12 s
    assert [result.verdict for result in results] == [Verdict.TLE] * 4
    assert all(result.cpu_seconds < 1.8 for result in results)


def test_tests_of_a_program_do_not_see_each_other(judge: Judge) -> None:
    ones = (TestCase("", "1"), TestCase("", "1"), TestCase("", "1"))
    leaks = [
        "import collections\ncollections.n = getattr(collections, 'n', 0) + 1\nprint(collections.n)",
        "import random\nfrom random import seed\nx = random.random()\nprint(1)",
        "import sys\nprint(1 if sys.getrecursionlimit() == 1000 else 2)\nsys.setrecursionlimit(5000)",
        "import decimal\nprint(decimal.getcontext().prec - 27)\ndecimal.getcontext().prec = 5",
        "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\nprint(builtins.n)",
        "n = globals().get('n', 0) + 1\nprint(n)",
        "import sys\nsys.stdout.write('1')\nsys.stdout = None",
        "import os\nos.environ['N'] = os.environ.get('N', '') + 'x'\nprint(len(os.environ['N']))",
    ]
    for code in leaks:
        assert one(judge, code, ones).verdict is Verdict.AC, code


def test_programs_do_not_see_each_other(judge: Judge) -> None:
    code = "import math\nmath.n = getattr(math, 'n', 0) + 1\nprint(math.n)"
    tasks = [JudgeTask(str(index), code, (TestCase("", "1"),)) for index in range(20)]
    assert {result.verdict for result in judge.evaluate(tasks)} == {Verdict.AC}


def test_chance_does_not_change_a_verdict(judge: Judge) -> None:
    code = "import random\nprint(random.random(), hash('x'), sorted({'a', 'b', 'c'}, key=hash))"
    tests = (TestCase("", "?"),)
    seen = {one(judge, code + "\nimport sys\nraise ValueError(random.random())", tests).error for _ in range(4)}
    assert len(seen) == 1


def test_results_come_in_order_and_tasks_are_taken_as_needed(judge: Judge) -> None:
    taken = 0

    def tasks() -> Iterator[JudgeTask]:
        nonlocal taken
        for index in range(3000):
            taken += 1
            slow = "import time\ntime.sleep(0.2)\n" if index == 1 else ""
            yield JudgeTask(str(index), slow + SUM, SUMS[:1])

    results = judge.evaluate(tasks())
    assert [next(results).key for _ in range(100)] == [str(index) for index in range(100)]
    assert taken < 1000  # bounded look-ahead
    results.close()
    assert one(judge, SUM).verdict is Verdict.AC  # usable after an iteration left early


def test_only_one_iteration_at_a_time(judge: Judge) -> None:
    first = judge.evaluate([JudgeTask("a", SUM, SUMS)] * 2)
    next(first)
    with pytest.raises(RuntimeError, match="already"):
        next(judge.evaluate([]))
    first.close()
    assert list(judge.evaluate([])) == []


def test_a_killed_worker_is_replaced_and_its_program_judged() -> None:
    with Judge(limits=LIMITS, workers=1) as judge:
        tasks = [JudgeTask(str(index), "import time\ntime.sleep(0.3)\n" + SUM, SUMS[:1]) for index in range(3)]
        results = judge.evaluate(tasks)
        assert next(results).verdict is Verdict.AC
        (pid,) = judge.worker_pids()
        os.kill(pid, signal.SIGKILL)
        assert [result.verdict for result in results] == [Verdict.AC] * 2
        assert judge.worker_pids() != {pid}


def test_a_worker_that_cannot_run_anything_gives_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0
    send = Worker.send

    def without_files(self: Worker, request: jobs.Request, descriptors: tuple[int, ...] = ()) -> None:
        nonlocal sent
        sent += 1
        send(self, request, descriptors[:1])

    with Judge(limits=LIMITS, workers=1) as judge:
        monkeypatch.setattr(Worker, "send", without_files)
        result = one(judge, SUM)
        assert (result.verdict, sent) == (Verdict.SANDBOX_ERROR, 6)
        assert not result.verdict.is_label
        monkeypatch.undo()
        assert one(judge, SUM).verdict is Verdict.AC


def test_close_leaves_no_process() -> None:
    judge = Judge(limits=Limits(60, 60), workers=2)
    sessions = judge.worker_pids()
    results = judge.evaluate([JudgeTask("a", SUM, SUMS), JudgeTask("b", "while True: pass", SUMS)])
    next(results)
    assert session_members(sessions)
    results.close()
    judge.close()
    assert session_members(sessions) == []


def test_workers_end_with_a_killed_caller() -> None:
    code = (
        "import os, signal\nfrom dreamprm_jax.sandbox import Judge\n"
        "judge = Judge(workers=1)\nprint(*judge.worker_pids(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sessions = {int(done.stdout)}
    deadline = time.monotonic() + 60
    while session_members(sessions) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session_members(sessions) == []


def test_the_judge_is_not_stopped_by_a_slow_consumer(judge: Judge) -> None:
    results = judge.evaluate([JudgeTask(str(index), SUM, SUMS) for index in range(6)])
    assert next(results).verdict is Verdict.AC
    time.sleep(2.5)  # beyond the wall limit
    assert [result.verdict for result in results] == [Verdict.AC] * 5


def test_a_failure_ends_a_long_program_early() -> None:
    code = "print(7)\nimport time\ns = time.process_time()\nwhile time.process_time() < s + 0.5: pass"
    with Judge(limits=Limits(cpu_seconds=20.0, wall_seconds=60.0), workers=1) as patient:
        result = one(patient, code, SUMS * 10)
    assert result.verdict is Verdict.WA
    assert result.tests_passed == 1
    assert result.cpu_seconds < 5  # all tests together would take 15 s


def test_large_inputs_and_many_tests(judge: Judge) -> None:
    big = " ".join(["1"] * 500_000)
    assert one(judge, "print(len(input().split()))", (TestCase(big, "500000"),) * 3).verdict is Verdict.AC
    many = tuple(TestCase(f"{index} 1\n", f"{index + 1}\n") for index in range(300))
    result = one(judge, SUM, many)
    assert (result.verdict, result.tests_passed) == (Verdict.AC, 300)


def test_checkers_decide_where_several_answers_are_right(judge: Judge) -> None:
    def any_order(text: str, expected: str, answer: str) -> bool:
        return sorted(answer.split()) == sorted(expected.split())

    def broken(text: str, expected: str, answer: str) -> bool:
        raise KeyError

    tests = (TestCase("", "1 2 3"),)
    assert one(judge, "print(3, 1, 2)", tests).verdict is Verdict.WA
    assert one(judge, "print(3, 1, 2)", tests, checker=any_order).verdict is Verdict.AC
    assert one(judge, "print(3, 1)", tests, checker=any_order).verdict is Verdict.WA
    assert one(judge, "print(3, 1)", tests, checker=broken).verdict is Verdict.WA
    function = (TestCase("[3,1]", "[1,3]", "functional"),)
    code = "def f(a): return a"
    assert one(judge, code, function, "f").verdict is Verdict.WA
    assert one(judge, code, function, "f", checker=lambda i, e, answer: answer == "[3,1]").verdict is Verdict.AC


def test_official_mode_gives_official_codes() -> None:
    with Judge("lcb", limits=LIMITS, workers=1) as judge:
        assert one(judge, SUM).codes == (1, 1, 1)
        assert one(judge, "print(7)").codes == (1, -2)
        assert one(judge, "1/0").codes == (-4,)
        assert one(judge, "import time\ntime.sleep(9)").codes == (-3,)
        assert one(judge, "import os\nos._exit(0)").codes == (-2,)
        assert one(judge, "x = (").codes == (-4,)
        result = one(judge, "def f(a): return 0", (TestCase("1", "1", "functional"),), "f")
        assert (result.verdict, result.codes, result.mode) == (Verdict.WA, (0,), "lcb")


def test_settings_are_checked() -> None:
    for bad in ({"mode": "fast"}, {"tier": "SAFE"}, {"workers": -1}):
        with pytest.raises(DataError):
            Judge(**bad)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cpu_seconds"):
        Limits(cpu_seconds=0)
    with Judge.from_config(SandboxConfig(workers=1, cpu_seconds=3.0)) as judge:
        assert judge.limits.cpu_seconds == 3.0


def test_a_tier_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamprm_jax.sandbox import worker

    monkeypatch.setattr(worker, "_SYSTEM_PATHS", (*worker._SYSTEM_PATHS, "/etc/passwd"))
    with pytest.raises(SandboxUnavailable, match="not denied reading files"):
        Judge(workers=1)


@pytest.mark.parametrize("tier", ["EXTERNAL", "UNSAFE"])
def test_lower_tiers_run_and_say_so(tier: str) -> None:
    with Judge(tier=tier, limits=LIMITS, workers=1) as judge:
        result = one(judge, SUM)
    assert (result.verdict, result.tier) == (Verdict.AC, tier)


def test_a_worker_loads_neither_this_package_nor_jax(judge: Judge) -> None:
    code = (
        "import sys\nloaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(loaded & {'jax', 'jaxlib', 'dreamprm_jax', 'num' + 'py'}))"
    )
    assert one(judge, code, (TestCase("", "[]"),)).verdict is Verdict.AC
