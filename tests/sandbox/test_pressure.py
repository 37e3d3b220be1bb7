"""Correct verdicts under pressure: no memory, killed children, workers that cannot start, programs without a core."""

from __future__ import annotations

import itertools
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

from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits, grading, plan, worker
from dreamprm_jax.sandbox.inside import frames, jobs
from dreamprm_jax.sandbox.judge import _Queue, _Started
from dreamprm_jax.schema import DataError, TestCase, Verdict

SUM = JudgeTask("sum", "print(sum(map(int, input().split())))", (TestCase("3 4", "7"),))
LIMITS = Limits(cpu_seconds=20.0, wall_seconds=60.0, memory_bytes=256 << 20)
CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
STARVED = jobs.Reply(0, jobs.WALL_LIMIT, 9, 1.0, wall_seconds=8.0, waited_seconds=7.0)


def judged(judge: Judge, *codes: str, expected: str = "1") -> list[JudgeResult]:
    tests = (TestCase("", expected),)
    return list(judge.evaluate(JudgeTask(str(index), code, tests) for index, code in enumerate(codes)))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(limits=LIMITS, workers=1) as opened:
        yield opened


@pytest.fixture
def small_machine() -> Iterator[Path]:
    """A control group of 400 MiB. Yields the file through which processes join it."""
    for base in CGROUPS:
        group = base / f"dreamprm-test-{os.getpid()}"
        limit = "memory.max" if (base / "cgroup.controllers").exists() else "memory.limit_in_bytes"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(400 << 20))
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")


def test_right_programs_on_a_small_machine_get_no_failing_label(small_machine: Path) -> None:
    """The programs fit only one at a time. A program that the kernel kills is retried alone; the caller stays alive."""
    script = f"""
import os
from dreamprm_jax.sandbox import Judge, JudgeTask, Limits
from dreamprm_jax.schema import TestCase
open({str(small_machine)!r}, "w").write(str(os.getpid()))
code = "import time\\nx = bytearray(b'x') * (220 << 20)\\ntime.sleep(1)\\nprint(1)"
with Judge(limits=Limits(20, 60), workers=2) as judge:
    results = list(judge.evaluate(JudgeTask(str(k), code, (TestCase("", "1"),)) for k in range(4)))
    print(*(result.verdict for result in results))
    grows = "x = []\\nwhile True: x.append(bytearray(b'x') * (1 << 20))"
    (result,) = judge.evaluate([JudgeTask("grows", grows, (TestCase("", "1"),))])
    print(result.verdict, result.error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "AC AC AC AC"
    assert second.startswith("SANDBOX_ERROR killed by the system")  # it was within its own limit, so it gets no label


def test_children_are_killed_before_others(judge: Judge) -> None:
    (pid,) = judge.worker_pids()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


@pytest.mark.parametrize(("kills", "verdict"), [(1, Verdict.AC), (2, Verdict.SANDBOX_ERROR)])
@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_a_kill_from_outside_is_no_verdict(tmp_path: Path, mode: str, kills: int, verdict: Verdict) -> None:
    code = "import time\ntime.sleep(2)\nprint(1)"
    with Judge(mode, limits=LIMITS, workers=1, cache=tmp_path) as judge:
        (pid,) = judge.worker_pids()

        def kill() -> None:
            killed = set[int]()
            deadline = time.monotonic() + 60
            while len(killed) < kills and time.monotonic() < deadline:
                for child in set(session_members({pid})) - {pid} - killed:
                    time.sleep(0.3)  # its lockdown is complete
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
                time.sleep(0.02)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        (result,) = judged(judge, code)
        killer.join()
        assert result.verdict is verdict, result
        (again,) = judged(judge, code)
        assert again.verdict is Verdict.AC  # no wrong verdict was kept
        assert (again.cpu_seconds == result.cpu_seconds) == (verdict is Verdict.AC)


def test_a_program_cannot_kill_itself_out_of_a_verdict(judge: Judge) -> None:
    ways = [
        "import signal\nsignal.raise_signal(9)",
        "import signal, threading\nsignal.pthread_kill(threading.get_ident(), 9)",
        "import os\nos.kill(os.getpid(), 9)",
        "import os\nos.kill(0, 9)",
    ]
    assert [result.verdict for result in judged(judge, *ways)] == [Verdict.RE] * 4


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_reserved_memory_is_not_used_memory(mode: str) -> None:
    thread = (
        "import threading\nthreading.stack_size({})\nts = [threading.Thread(target=print, args=(1,)) for _ in '{}']\n"
    )
    thread += "for t in ts:\n  t.start()\n  t.join()\n"
    honest = {
        thread.format(1 << 30, "x"): "1",
        thread.format(1 << 29, "xxx"): "1\n1\n1",
        "import mmap\nm = mmap.mmap(-1, 8 << 30)\nm[1 << 32] = 1\nprint(m[1 << 32])": "1",
        "import numpy as np\na = np.zeros((30000, 30000))\na[7, 7] = 1\nprint(int(a[7, 7]))": "1",
    }
    with Judge(mode, limits=LIMITS, workers=1) as judge:
        for code, expected in honest.items():
            for _ in range(3):
                (result,) = judged(judge, code, expected=expected)
                assert result.verdict is Verdict.AC, (code, result)


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_used_memory_is_limited(mode: str) -> None:
    greedy = [
        "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))",
        "x = bytearray(1 << 40)",
        "x = bytearray(b'x') * (300 << 20)\ndel x\nprint(1)",  # released before it is measured
        "try:\n  x = bytearray(b'x') * (300 << 20)\nexcept MemoryError: pass\nprint(1)",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor k in range(0, 1 << 30, 4096): m[k] = 1",
        "import mmap\nms = [mmap.mmap(-1, 1 << 36) for _ in range(3)]",
    ]
    modest = "x = bytearray(b'x') * (200 << 20)\nprint(1)"
    with Judge(mode, limits=LIMITS, workers=2) as judge:
        results = judged(judge, *greedy, modest)
    assert [result.verdict for result in results] == [Verdict.MLE] * len(greedy) + [Verdict.AC], results


def test_the_test_that_takes_too_much_memory_is_found(judge: Judge) -> None:
    code = "n = int(input())\nx = bytearray(b'x') * (n << 20)\nprint(n)"
    tests = tuple(TestCase(f"{size}", f"{size}") for size in (1, 2, 300, 3))
    (result,) = judge.evaluate([JudgeTask("key", code, tests)])
    assert (result.verdict, result.tests_passed) == (Verdict.MLE, 2)


def drive(mode: str, *replies: jobs.Reply, retry: bool = True) -> tuple[list[plan.Run], JudgeResult]:
    """Answers the runs of a plan. The last reply is repeated."""
    steps = plan.judge_task(SUM, mode, "PORTABLE", Limits(6.0, 2.0), retry)
    runs = [next(steps)]
    for reply in itertools.chain(replies, itertools.repeat(replies[-1])):
        runs[-1].grader.open()
        try:
            runs.append(steps.send(reply))
        except StopIteration as stop:
            return runs, stop.value
    raise AssertionError


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_only_what_lacked_a_core_is_tried_again(mode: str) -> None:
    runs, result = drive(mode, STARVED)
    assert [run.turn for run in runs] == ["now", "share", "alone"]
    assert result.verdict is Verdict.TLE
    for final in (
        STARVED._replace(ending=jobs.CPU_LIMIT),
        STARVED._replace(waited_seconds=0.1),
        STARVED._replace(ending=jobs.EXITED, value=1),
    ):
        assert len(drive(mode, final)[0]) == 1
    assert len(drive(mode, STARVED, retry=False)[0]) == 1


def test_failures_of_the_sandbox_are_tried_again_with_growing_pauses() -> None:
    runs, result = drive("faithful", jobs.Reply(0, jobs.FAILED, 0, 0.0, error="no worker"))
    assert [run.pause_seconds for run in runs] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6])
    assert (result.verdict, result.error) == (Verdict.SANDBOX_ERROR, "no worker")


def test_retries_wait_for_the_end_and_keep_to_their_share() -> None:
    def run(turn: plan.Turn) -> Any:
        return plan.Run(lambda: b"", jobs.Request(jobs.RUN, 0), None, False, turn)  # type: ignore[arg-type]

    task = _Started(0, None, "")  # type: ignore[arg-type]
    queue = _Queue()
    for turn in ("share", "alone", "share", "share", "now"):
        queue.add(task, run(turn))  # type: ignore[arg-type]
    steps = [(0, "now"), (1, None), (0, "share"), (1, "share"), (2, None), (1, "share"), (2, None), (1, None)]
    steps += [(0, "alone"), (1, None), (0, None)]
    for running, expected in steps:
        item = queue.next(running, retry_width=2)
        assert (item and item[1].turn) == expected, (running, expected)
    assert queue.empty()
    assert not queue.retrying


def test_the_share_is_a_setting() -> None:
    with pytest.raises(DataError, match="share"):
        Judge(workers=1, retry_share=1.5)


@pytest.mark.parametrize("fault", ["dies at its start", "cannot be started"])
def test_workers_that_fail_to_start_lose_no_verdict(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, the process table is full for a while, or a worker is killed while it replaces another."""
    start = worker.Worker.__init__
    faults = itertools.count()

    def failing(self: worker.Worker, *args: Any, **more: Any) -> None:
        number = next(faults)
        if number < 4 and fault == "cannot be started":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self, *args, **more)
        if number < 4:
            os.kill(self.pid, signal.SIGKILL)

    with Judge(limits=LIMITS, workers=2) as judge:
        tasks = [SUM] * 30
        results = judge.evaluate(tasks)
        first = next(results)
        monkeypatch.setattr(worker.Worker, "__init__", failing)
        for pid in judge.worker_pids():
            os.kill(pid, signal.SIGKILL)
        verdicts = [first.verdict, *(result.verdict for result in results)]
    assert verdicts == [Verdict.AC] * len(tasks)
    assert next(faults) > 4


def test_a_thread_bomb_is_small(judge: Judge) -> None:
    """At most 128 threads exist at a time, but a program may start many more over its lifetime."""
    bomb = "import threading\nhold = threading.Event()\nn = 0\ntry:\n  while True:\n"
    bomb += "    threading.Thread(target=hold.wait, daemon=True).start()\n    n += 1\nexcept RuntimeError: print(n)\n"
    many = (
        "import threading\nfor _ in range(1500):\n  t = threading.Thread(target=int)\n  t.start()\n  t.join()\nprint(1)"
    )
    assert judged(judge, bomb, expected="127")[0].verdict is Verdict.AC
    assert judged(judge, many)[0].verdict is Verdict.AC


def test_an_unfinished_frame_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = grading._read
    monkeypatch.setattr(grading, "_read", lambda file, start, end: reads.append(end - start) or read(file, start, end))
    grader = grading.Grader(SUM, functional=False, official=True, first=0, output_bytes=1 << 20)
    grader.open()
    try:
        data = frames.pack(frames.Frame(0, frames.OK, True, 0, b" " * (1 << 16) + b"7"))
        for part in (data[:100], data[100:5000], data[5000:-1]):
            os.write(grader.result_file, part)
            for _ in range(5):
                grader.advance()
        assert len(reads) == 1
        os.write(grader.result_file, data[-1:])
        grader.advance()
        assert grader.position == 1
    finally:
        grader.close()


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
@pytest.mark.parametrize("depth", [900, 950, 981, 1100, 100_000])
def test_a_deep_expected_value_ends_no_run(mode: str, depth: int) -> None:
    tests = (TestCase("1", "[" * depth + "]" * depth, "functional"),)
    with Judge(mode, limits=LIMITS, workers=1) as judge:
        (result,) = judge.evaluate([JudgeTask("deep", "def f(a): return a", tests, "f")])
    assert result.verdict in (Verdict.WA, Verdict.INVALID_TASK, Verdict.RE)
