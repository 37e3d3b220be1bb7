"""A server that never answers one request: the other answers are stored as they arrive; the command can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamprm_jax.runs.journal import Journal

CONFIG = """
from dreamprm_jax.config import defaults

def get_config():
    config = defaults()
    config.problems.train_count = config.problems.meta_count = config.problems.test_count = 5
    config.generate.train_programs = config.generate.test_programs = 1
    config.policy.update(kind="server", base_url={base_url!r}, model={model!r}, timeout_seconds=3000.0)
    return config
"""
PROBLEMS = 15
STUCK = 12  # number of the stuck request, counting the probes of the server's abilities and those for problems


def answered(workdir: Path) -> int:
    """Lines in the journal of candidates, read while another process writes it."""
    try:
        return (workdir / "generate" / "candidates.journal").read_bytes().count(b"\n")
    except OSError:
        return 0


def heed_interrupts() -> None:
    """Restores the default handler, as in a terminal. Background jobs are started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_stuck_request_costs_that_one_alone(address: str, tmp_path: Path, number: signal.Signals) -> None:
    model = f"hang_{STUCK}:{number}-{time.monotonic_ns()}"
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG.format(base_url=f"{address}/v1", model=model))
    command = [sys.executable, "-m", "dreamprm_jax.cli", "generate", f"--config={config}", f"--workdir={workdir}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as process:
        try:
            deadline = time.monotonic() + 300
            while answered(workdir) < PROBLEMS - 1 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            os.kill(process.pid, number)
            process.wait(60)  # the server would hold the request for an hour
        finally:
            process.kill()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    if number != signal.SIGKILL:
        assert "run the same command again to continue" in said
        assert "Traceback" not in said
    with Journal(workdir / "generate" / "candidates.journal") as journal:
        assert len(journal) == PROBLEMS - 1
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads((workdir / "generate" / "DONE.json").read_text())["counts"]["test programs"] == 5
    with Journal(workdir / "generate" / "candidates.journal") as journal:
        assert len(journal) == PROBLEMS
