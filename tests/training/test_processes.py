"""One run on 1, 8 and 2 x 2 devices; two processes stopped and killed at random moments, and gone on with elsewhere."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("train_process.py")


def start(folders, mesh: str, devices: int, processes: int = 1) -> list[subprocess.Popen]:
    """The processes of one run, with so many CPU devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(PROGRAM), ",".join(map(str, folders)), mesh]
    return [
        subprocess.Popen(
            command + ([str(port), str(index), str(processes)] if processes > 1 else []),
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip


def finish(runs: list[subprocess.Popen]) -> list[int]:
    """Their exit statuses."""
    try:
        errors = [run.communicate(timeout=400)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    statuses = [run.returncode for run in runs]
    assert set(statuses) <= {0, 143}, errors
    return statuses


def rows(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(folder: Path, count: int, runs: list[subprocess.Popen]) -> None:
    """Until so many steps are logged."""
    while len(rows(folder)) < count:
        assert all(run.poll() is None for run in runs), [run.communicate()[1][-2000:] for run in runs]
        time.sleep(0.02)


def assert_close(first: Path, second: Path, skip: int = 0) -> None:
    """The same metrics, step for step, and the same label table, to 1e-5 of their size."""
    one, other = rows(first), rows(second)
    assert [row["step"] for row in one] == [row["step"] for row in other] == list(range(2, 26))
    for a, b in list(zip(one, other, strict=True))[skip:]:
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5), (a["step"], name)
    tables = [json.loads((folder / "table.json").read_text(encoding="utf-8")) for folder in (first, second)]
    np.testing.assert_allclose(*tables, atol=1e-5)


@pytest.mark.slow
def test_stopped_and_killed_processes_end_as_if_nothing_had_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(start([whole], "2x2x1", devices=2, processes=2)) == [0, 0]
    assert len(rows(whole)) == 24

    rng = random.Random(0)
    runs = start([killed], "2x2x1", devices=2, processes=2)
    wait_for(killed, rng.randint(2, 8), runs)
    runs[1].send_signal(signal.SIGTERM)  # the other one is told by the next step
    assert finish(runs) == [143, 143]
    saved = max(int(path.name) for path in (killed / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == rows(killed)[-1]["step"] + 1  # at once, not at the next checkpoint
    assert 4 <= saved < 26
    shutil.copytree(killed, tmp_path / "elsewhere")

    runs = start([killed], "2x2x1", devices=2, processes=2)
    wait_for(killed, rng.randint(saved, 16), runs)
    for run in runs:  # as a machine dies, or a scheduler kills what is left of a job
        run.kill()
    for run in runs:
        run.communicate()
    assert finish(start([killed], "2x2x1", devices=2, processes=2)) == [0, 0]
    assert rows(killed) == rows(whole)
    assert (killed / "table.json").read_text() == (whole / "table.json").read_text()

    # On one process with 8 devices in another arrangement: from the start, and from the two processes' checkpoint.
    assert finish(start([tmp_path / "eight", tmp_path / "elsewhere"], "1x4x2", devices=8)) == [0]
    assert_close(tmp_path / "eight", whole)
    assert_close(tmp_path / "elsewhere", whole)
    # And on one device, killed on the way.
    runs = start([tmp_path / "one"], "1x1x1", devices=1)
    wait_for(tmp_path / "one", rng.randint(2, 20), runs)
    runs[0].kill()
    runs[0].communicate()
    assert finish(start([tmp_path / "one"], "1x1x1", devices=1)) == [0]
    assert_close(tmp_path / "one", whole)
    assert_close(tmp_path / "one", tmp_path / "eight")
