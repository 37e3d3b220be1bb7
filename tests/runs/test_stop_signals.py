"""Ctrl-C and SIGTERM end the process with their status, also while no bytecode runs or an exception is discarded."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

START = """
import signal
from dreamprm_jax.runs.stop_signals import run_until_stopped, stops_by_itself

def command():
    {body}
    return 0

signal.signal(signal.SIGINT, signal.SIG_DFL)
run_until_stopped(command)
"""
BUSY = "sum(number for number in range(10**9))"
BODIES = {
    "python": f"print('go', flush=True); {BUSY}",
    "one call": "import hashlib; print('go', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "discards": f"""
    class Discards:
        def __del__(self):
            print('go', flush=True)
            {BUSY}

    while True:
        Discards()""",
}
SAVES = """
    import time
    asked = []
    with stops_by_itself():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: asked.append(number))
        print('go', flush=True)
        while not asked:
            time.sleep(0.01)
        time.sleep(6)  # longer than a command that does not stop by itself is given
        print('saved', flush=True)
        raise SystemExit(128 + asked[0])"""


def stopped(body: str, number: signal.Signals) -> tuple[int, str]:
    """The status and the output of a process that received a signal once it had begun."""
    command = [sys.executable, "-c", START.format(body=body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "go\n"
            process.send_signal(number)
            output = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    return process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_signal_ends_the_process(body: str, number: signal.Signals) -> None:
    status, output = stopped(body, number)
    assert status == 128 + number
    assert "run the same command again to continue" in output


def test_work_that_stops_by_itself_is_saved_first() -> None:
    assert stopped(SAVES, signal.SIGTERM) == (143, "saved\n")


def test_a_command_that_ends_gives_its_status() -> None:
    command = [sys.executable, "-c", "from dreamprm_jax.runs.stop_signals import *; run_until_stopped(lambda: 3)"]
    assert subprocess.run(command, check=False).returncode == 3
