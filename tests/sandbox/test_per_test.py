"""Reports on single tests: their content. They change no verdict and contain no terminal escapes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.sandbox import Comparison, Judge, JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import TestCase, Verdict
from dreamprm_jax.storage import read_table

TESTS = tuple(TestCase(f"{n}\n", f"{n * n}\n") for n in (2, 3, 4))
PROGRAMS = {
    "right": "print(int(input()) ** 2)",
    "wrong": "n = int(input())\nprint(n * n if n < 4 else 'no')",
    "raises": "n = int(input())\nif n > 2: raise ValueError('red \\x1b[31m')\nprint(n * n)",
    "exits": "import sys\nprint('part', flush=True)\nsys.exit(7)",
    "abort": "import os\nos.abort()",
    "ends": "import os\nos.write(1, b'4')\nos._exit(0)",
    "chatters": "import os\nfor _ in range(300): os.write(2, b'x' * 65536)\nprint(int(input()) ** 2)",
    "null": "import os\nprint('lost', file=open(os.devnull, 'w'))\nprint(int(input()) ** 2)",
    "closes": "import os\nos.close(2)\nprint(int(input()) ** 2)",
    "syntax": "print(",
}


@pytest.fixture(scope="module", params=["faithful", "lcb"])
def results(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, JudgeResult], dict[str, JudgeResult]]]:
    with Judge(request.param, workers=1) as judge:
        tasks = [JudgeTask(name, code, TESTS) for name, code in PROGRAMS.items()]
        plain = {result.key: result for result in judge.evaluate(tasks)}
        asked = [dataclasses.replace(task, per_test=True) for task in tasks]
        yield request.param, plain, {result.key: result for result in judge.evaluate(asked)}


def test_reports_change_no_verdict(results: tuple[str, dict[str, JudgeResult], dict[str, JudgeResult]]) -> None:
    _, plain, reported = results
    for name, result in plain.items():
        assert result.tests == ()
        assert dataclasses.replace(reported[name], tests=(), cpu_seconds=0) == dataclasses.replace(
            result, cpu_seconds=0
        )
        tests = reported[name].tests
        passed = result.tests_passed
        assert [test.verdict for test in tests[:passed]] == [Verdict.AC] * passed
        assert len(tests) == passed + (result.verdict is not Verdict.AC)
        assert tests[-1].verdict is result.verdict
        assert tests[-1].expected == TESTS[len(tests) - 1].output


def test_what_reports_say(results: tuple[str, dict[str, JudgeResult], dict[str, JudgeResult]]) -> None:
    mode, _, reported = results
    last = {name: result.tests[-1] for name, result in reported.items()}
    assert [test.got.strip() for test in reported["right"].tests] == ["4", "9", "16"]
    assert last["wrong"].got.strip() == "no"
    assert (last["abort"].signal, last["abort"].exit_status) == (6, None)
    if mode == "lcb":
        assert last["right"].cpu_seconds is None  # known only for all three tests together
        return
    assert [test.exit_status for test in reported["right"].tests] == [0, 0, 0]
    assert all(
        # The kernel may report zero CPU time for a short process.
        test.cpu_seconds is not None and test.wall_seconds and test.peak_bytes is not None
        for test in reported["right"].tests
    )
    assert (last["exits"].exit_status, last["exits"].got) == (7, "part\n")
    assert (last["ends"].exit_status, last["ends"].got) == (0, "4")
    assert (last["raises"].exit_status, last["raises"].signal) == (1, None)
    assert last["raises"].stderr.startswith("Traceback")
    assert "red \\x1b[31m" in last["raises"].stderr
    assert last["chatters"].stderr == "x" * 1000
    assert (last["null"].stderr, last["null"].verdict) == ("", Verdict.AC)


def test_limits_in_reports() -> None:
    programs = {
        "cpu": "while True: pass",
        "memory": "x = bytearray(b'x') * (300 << 20)\nimport time\ntime.sleep(1)",
        "room": "x = bytearray(b'x') * (40 << 20)\nprint(4)",
    }

    with Judge("faithful", limits=Limits(0.5, 5.0, 100 << 20), workers=1, per_test=True) as judge:
        tasks = [JudgeTask(name, code, TESTS[:1]) for name, code in programs.items()]
        last = {result.key: result.tests[-1] for result in judge.evaluate(tasks)}
    assert (last["cpu"].verdict, last["cpu"].signal) == (Verdict.TLE, 9)
    assert (last["cpu"].cpu_seconds or 0) >= 0.5
    assert last["memory"].verdict is Verdict.MLE
    assert (last["memory"].peak_bytes or 0) > 100 << 20
    assert 30 << 20 <= (last["room"].peak_bytes or 0) < 100 << 20


def test_a_function_and_a_checker_are_reported() -> None:

    test = TestCase("2", "[2, 1]", "functional")
    code = "class Solution:\n    def f(self, n): return (1, n)"
    checker = Comparison.parse("def check(a, b, c): return False", "here")
    with Judge("faithful", workers=1, per_test=True) as judge:
        plain = JudgeTask("plain", code, (test, test), "f")
        for task in (plain, dataclasses.replace(plain, comparison=checker)):
            (result,) = judge.evaluate([task])
            (report,) = result.tests
            assert (report.verdict, json.loads(report.got), report.expected) == (Verdict.WA, [1, 2], "[2, 1]")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_command_writes_reports(tmp_path: Path, ending: str) -> None:
    row = dict.fromkeys(("question_title", "question_content", "platform", "contest_id", "starter_code"), "x")
    row |= {"question_id": "a", "contest_date": "2024-01-01T00:00:00", "difficulty": "easy", "metadata": "{}"}
    row["public_test_cases"] = json.dumps([{"input": "2", "output": "4", "testtype": "stdin"}])
    row["private_test_cases"] = "[]"
    (tmp_path / "problems.jsonl").write_text(json.dumps(row | {"starter_code": ""}))
    code = "print('\\x1b[31m\\x9b5m\\ud800', end='')".replace("\\ud800", "")
    (tmp_path / "candidates.json").write_text(json.dumps([{"question_id": "a", "code_list": ["print(4)", code]}]))
    out = tmp_path / f"out.{ending}"
    files = [f"--problems={tmp_path / 'problems.jsonl'}", f"--candidates={tmp_path / 'candidates.json'}"]
    arguments = ["judge", *files, f"--output={out}", "--workers=1", "--mode=faithful"]
    assert main(arguments) == 0
    assert not any(row.get("tests") for row in read_table(out))
    assert main([*arguments, "--per-test"]) == 0  # rows of the earlier run are not sufficient
    reports = [row["tests"] if ending != "csv" else json.loads(row["tests"]) for row in read_table(out)]
    assert [(tests[0]["verdict"], tests[0]["expected"]) for tests in reports] == [("AC", "4"), ("WA", "4")]
    assert reports[1][0]["got"] == "\\x1b[31m\\x9b5m"
    if ending != "parquet":
        assert not {"\x1b", "\x9b"} & set(out.read_text())


ATTEMPTS = """
import ctypes, os, socket, subprocess, threading
def attempt(call, *args):
    try: call(*args)
    except (OSError, TypeError): pass
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(3): attempt(socket.socket)
attempt(os.fork)
attempt(libc.kill, 1, 9)
attempt(libc.ptrace, 16, 1, 0, 0)
attempt(open, "/tmp/new", "w")
attempt(libc.syscall, 438, -1, 7, 0)
attempt(libc.syscall, 999)
thread = threading.Thread(target=lambda: attempt(libc.unlink, b"/tmp/x"))
thread.start()
thread.join()
for descriptor in range(3, 256):  # were the listener here, the program could allow itself everything
    assert libc.ioctl(descriptor, 0xC0502100, ctypes.create_string_buffer(80)) < 0
print(1)
"""


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_denied_system_calls_are_logged_and_denied(mode: str) -> None:
    bomb = "import threading\nhold = threading.Event()\nn = 0\ntry:\n  while True:\n"
    bomb += "    threading.Thread(target=hold.wait, daemon=True).start()\n    n += 1\nexcept RuntimeError: print(n)\n"
    tests = {"attempts": (ATTEMPTS, "1"), "none": ("print(1)", "1"), "threads": (bomb, "127")}
    with Judge(mode, limits=Limits(20, 60), workers=1, per_test=True) as judge:
        tasks = [JudgeTask(name, code, (TestCase("", output),)) for name, (code, output) in tests.items()]
        attempts, none, threads = judge.evaluate(tasks)
    assert [attempts.verdict, none.verdict, threads.verdict] == [Verdict.AC] * 3, attempts
    assert none.tests[0].denied == threads.tests[0].denied == ()
    denied = list(attempts.tests[0].denied or ())
    assert "socket(2, 524289, 0) x3" in denied
    assert any(call.startswith("kill(1, 9, ") for call in denied)
    names = [call.partition("(")[0] for call in denied]
    expected = ["socket", "clone", "kill", "ptrace", "openat", "pidfd_getfd", "call 999", "unlink", "ioctl"]
    if mode == "lcb":
        expected.remove("clone")  # this mode removes os.fork
    assert list(dict.fromkeys(names)) == expected
