"""A whole run from the command line: six stages, and the same table after kill -9 in every stage."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("generate", "label", "train", "score", "evaluate", "report")
SMALL = {
    "problems.train_count": 12,
    "problems.meta_count": 6,
    "problems.test_count": 9,
    "generate.test_programs": 4,
    "label.rollouts": 2,
    "model.hidden_size": 32,
    "model.intermediate_size": 64,
    "model.num_layers": 1,
    "model.vocab_size": 600,
    "train.arms": "('raw','corrected')",
    "train.warmup_steps": 30,
    "train.steps": 30,
    "train.checkpoint_every": 10,
    "train.batch_size": 4,
    "train.meta.batch_size": 4,
    "score.batch_tokens": 4096,
    "evaluate.bootstrap_samples": 200,
}


def command(workdir: Path) -> list[str]:
    overrides = [f"--config.{name}={value}" for name, value in SMALL.items()]
    run = ["run", "--config=configs/embedded.py", f"--workdir={workdir}"]
    return [sys.executable, "-m", "dreamprm_jax.cli", *run, *overrides]


def start(workdir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(workdir), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def kill_in(workdir: Path, stage: str, delay: float, number: signal.Signals) -> bool:
    """Starts the run and sends a signal ``delay`` seconds into ``stage``. Returns whether it was still running."""
    with start(workdir) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"== {stage}:"):
                break
        time.sleep(delay)
        running = process.poll() is None
        process.send_signal(number)
        process.stdout.read()
    return running


def figures(workdir: Path) -> tuple[str, dict[str, object], list[str]]:
    metrics = [(workdir / "train" / arm / "metrics.jsonl").read_text() for arm in ("warmup", "raw", "corrected")]
    return (
        (workdir / "evaluate/table.txt").read_text(),
        json.loads((workdir / "evaluate/results.json").read_text()),
        metrics,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("job") / "whole"
    done = subprocess.run(command(workdir), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (workdir / "evaluate/table.txt").read_text().splitlines()[0] in done.stdout
    return workdir


@pytest.mark.slow
def test_a_run_killed_in_every_stage_has_the_same_table(whole: Path, tmp_path: Path) -> None:
    assert (whole / "report/report.html").stat().st_size > 10_000
    for name in ("config.json", "versions.json"):
        assert json.loads((whole / name).read_text())

    rng = random.Random(0)
    killed = tmp_path / "killed"
    hits = 0
    for stage, longest in zip(STAGES, (0.3, 2.0, 6.0, 3.0, 0.5, 0.5), strict=True):
        number = signal.SIGTERM if stage == "train" else signal.SIGKILL
        hits += kill_in(killed, stage, rng.uniform(0, longest), number)
    hits += kill_in(killed, "train", 0.0, signal.SIGKILL)  # train is finished and reused
    assert hits >= 4
    last = subprocess.run(command(killed), cwd=REPOSITORY, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr[-2000:]
    assert figures(killed) == figures(whole)
    assert not list(killed.rglob("*.tmp"))


@pytest.mark.slow
def test_a_second_run_reuses_everything_and_another_setting_redoes_what_it_changes(whole: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "moved"
    shutil.copytree(whole, workdir)  # a run's folder may be moved
    again = subprocess.run(command(workdir), cwd=REPOSITORY, capture_output=True, text=True)
    assert again.stdout.count("already done for these settings, reused") == len(STAGES)
    changed = subprocess.run(
        [*command(workdir), "--config.evaluate.aggregator=min"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert changed.returncode == 0, changed.stderr[-2000:]
    assert changed.stdout.count("already done for these settings, reused") == 4
    assert (workdir / "old/evaluate-1/table.txt").exists()


def test_no_stray_process_is_left(tmp_path: Path) -> None:
    """When a run is killed while judging, its sandbox processes end too."""
    with start(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("== label:"):
                break
        children: list[int] = []
        while len(children) < 2 and process.poll() is None:  # a worker and its program, or two workers
            children = _descendants(process.pid)
        process.kill()
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    assert not [pid for pid in children if _alive(pid)]


def _descendants(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
