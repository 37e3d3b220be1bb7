"""Ctrl-C and SIGTERM end the process with their status, even while no bytecode runs or exceptions are discarded."""

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
    received = []
    with stops_by_itself():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: received.append(number))
        print('go', flush=True)
        while not received:
            time.sleep(0.01)
        time.sleep(6)  # longer than GRACE_SECONDS
        print('saved', flush=True)
        raise SystemExit(128 + received[0])"""


def stopped(body: str, number: signal.Signals) -> tuple[int, str]:
    """Exit status and output of a process that receives a signal after it has started."""
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


def test_the_status_of_a_finished_command() -> None:
    command = [sys.executable, "-c", "from dreamprm_jax.runs.stop_signals import *; run_until_stopped(lambda: 3)"]
    assert subprocess.run(command, check=False).returncode == 3
