"""A run on 8 and on 2 x 2 devices; 2 processes that are stopped, killed and continued elsewhere, or train and score."""

import dataclasses
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

from dreamprm_jax.config import DistributedConfig, to_dict
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Score
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records

STAGES = Path(__file__).with_name("stage_process.py")
PROGRAM = Path(__file__).with_name("train_process.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(commands: list[list[str]], devices: int) -> list[subprocess.Popen]:
    """Starts one process per command, with ``devices`` CPU devices each."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return [
        subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]


def start(folders, mesh: str, devices: int, processes: int = 1) -> list[subprocess.Popen]:
    """Starts the processes of one run, with ``devices`` CPU devices each."""
    command, port = [str(PROGRAM), ",".join(map(str, folders)), mesh], str(free_port())
    numbers = [[port, str(index), str(processes)] if processes > 1 else [] for index in range(processes)]
    return launch([command + number for number in numbers], devices)


def finish(runs: list[subprocess.Popen]) -> list[int]:
    """Waits for the processes. Returns their exit statuses."""
    try:
        errors = [run.communicate(timeout=1200)[1] for run in runs]
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


def newest(folder: Path) -> int:
    """The number of finished steps at the last checkpoint."""
    return max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def wait_for(folder: Path, count: int, runs: list[subprocess.Popen]) -> None:
    """Waits until ``count`` steps are logged."""
    while len(rows(folder)) < count:
        assert all(run.poll() is None for run in runs), [run.communicate()[1][-2000:] for run in runs]
        time.sleep(0.02)


def assert_close(first: Path, second: Path, skip: int = 0) -> None:
    """Checks that the metrics of each step (relative or absolute) and the label tables (absolute) agree to 1e-5."""
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
    runs[1].send_signal(signal.SIGTERM)  # the other process learns of it in the next step
    assert finish(runs) == [143, 143]
    saved = newest(killed)
    assert saved == rows(killed)[-1]["step"] + 1  # immediately, not at the next regular checkpoint
    assert 4 <= saved < 26
    shutil.copytree(killed, tmp_path / "elsewhere")

    runs = start([killed], "2x2x1", devices=2, processes=2)
    wait_for(killed, rng.randint(saved, 16), runs)
    for run in runs:  # as if a machine failed, or a scheduler killed the rest of a job
        run.kill()
    for run in runs:
        run.communicate()
    assert finish(start([killed], "2x2x1", devices=2, processes=2)) == [0, 0]
    assert rows(killed) == rows(whole)
    assert (killed / "table.json").read_text() == (whole / "table.json").read_text()

    # In the process that writes the cache, the last start finds the programs that the first start compiled.
    (_, compiled), (found, again) = (
        json.loads((folder / "compiled.json").read_text("utf-8")) for folder in (whole, killed)
    )
    assert compiled > 0 == again
    assert found > 0

    # The checkpoint of two processes is continued by one process with 8 devices on another mesh, and the run is also
    # repeated there from the start. (test_mesh.py compares with one device.)
    elsewhere = tmp_path / "elsewhere"
    assert finish(start([tmp_path / "eight", elsewhere], "1x4x2", devices=8)) == [0]
    assert_close(tmp_path / "eight", whole)
    assert_close(elsewhere, whole)


@pytest.mark.slow
def test_two_processes_train_and_score_and_one_scores_the_same(tiny_config, tmp_path):
    """Runs the stages like `dreamprm train` and `score`; the second time, the score stage has one process."""
    meta = dataclasses.replace(tiny_config.train.meta, batch_size=4)
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, vocab_size=900),
        train=dataclasses.replace(tiny_config.train, arms=("label_table",), batch_size=4, meta=meta),
        score=dataclasses.replace(tiny_config.score, chunk=2),  # one problem
    )
    root = tmp_path / "run"
    for name in ("generate", "label"):
        run_stage(config, root, name)
    port, commands = free_port(), []
    for index in range(2):
        own = dataclasses.replace(config, distributed=DistributedConfig("explicit", f"127.0.0.1:{port}", 2, index))
        path = tmp_path / f"process_{index}.json"
        path.write_text(json.dumps(to_dict(own)), encoding="utf-8")
        commands.append([str(STAGES), str(path), str(root), "train,score"])
    assert finish(launch(commands, devices=2)) == [0] * 2
    assert sorted(path.name for path in (root / "score").iterdir()) == [
        "DONE.json",
        "STARTED.json",
        "label_table.parquet",
    ]
    assert [row["step"] for row in rows(root / "train" / "label_table")] == [4, 5, 6, 7]

    alone = tmp_path / "alone"
    shutil.copytree(root, alone)
    shutil.rmtree(alone / "score")
    assert run_stage(config, alone, "score")
    scores = Paths(root).scores("label_table")
    assert len(read_records(scores, Score)) >= 3
    assert Paths(alone).scores("label_table").read_bytes() == scores.read_bytes()
