"""Training with the launch scripts: two processes on this machine, and a SLURM job that is stopped and requeued.

SLURM is replaced with fakes: ``srun`` starts its tasks with the variables from which jax detects the job; ``squeue``
and ``scontrol`` answer and record calls. The processes, the collectives, the checkpoints and the signals are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dreamprm_jax.config import load_config
from dreamprm_jax.stages.runner import run_stage

CONFIG = "tests/launch/tiny_run.py"

SRUN = """
# Starts SLURM_NTASKS tasks with the variables that SLURM gives them; their statuses' highest is its own.
[ "$1" = --gpu-bind=none ] || exit 64
shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_STEP_NODELIST=localhost SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  echo $! >>PIDS
done
status=0
for task in $(jobs -p); do wait "$task" || { code=$?; [ "$code" -le "$status" ] || status=$code; }; done
exit "$status"
"""


@pytest.fixture
def slurm(tools, environment, tmp_path):
    """The environment of a job, with fakes of srun, squeue (which says that the job is STATE) and scontrol."""
    tools("srun", SRUN.replace("PIDS", str(tmp_path / "pids")))
    tools("squeue", f"cat {tmp_path}/state")
    tools("scontrol", f'echo "$@" >>{tmp_path}/requeued')
    (tmp_path / "state").write_text("RUNNING\n")
    job = str(1000 + os.getpid() % 3000)  # jax derives the coordinator's port from it
    return {**environment, "SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "JAX_PLATFORMS": "cpu"}


def start(repository: Path, variables: dict[str, str], workdir: Path) -> subprocess.Popen[str]:
    """Starts a copy of the job's script, as SLURM does."""
    copy = workdir.parent / "slurm_script"
    copy.write_text((repository / "launch" / "slurm.sbatch").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["bash", str(copy), "train", f"--config={CONFIG}", f"--workdir={workdir}"]
    return subprocess.Popen(
        command, cwd=repository, env={**variables, "SLURM_SUBMIT_DIR": str(repository)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(run: subprocess.Popen[str]) -> tuple[int, str]:
    output = run.communicate(timeout=600)[0]
    return run.returncode, output


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_job_is_requeued_unless_it_was_cancelled(slurm, tools, repository, tmp_path, state, requeued):
    tools("srun", "exit 143")
    (tmp_path / "state").write_text(f"{state}\n")
    assert finish(start(repository, slurm, tmp_path / "run"))[0] == 143
    assert (tmp_path / "requeued").exists() is requeued


@pytest.fixture(scope="module")
def labeled(repository, tmp_path_factory) -> Path:
    """A run whose stages before training are complete."""
    workdir = tmp_path_factory.mktemp("labeled") / "run"
    config = load_config(str(repository / CONFIG), [])
    for stage in ("generate", "label"):
        run_stage(config, workdir, stage)
    return workdir


def metrics(workdir: Path) -> list[dict]:
    path = workdir / "train" / "raw" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
def test_two_processes_here_and_in_a_requeued_job_train_alike(labeled, launch, slurm, repository, tmp_path):
    whole, requeued = tmp_path / "whole", tmp_path / "requeued_run"
    for workdir in (whole, requeued):
        subprocess.run(["cp", "-r", labeled, workdir], check=True)
    result = launch(
        "local_multiprocess.sh",
        "--processes=2",
        "--devices=1",
        f"--config={CONFIG}",
        f"--workdir={whole}",
        checked=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "launch: settings checked: train: 2 devices as data 2" in result.stdout
    assert len(metrics(whole)) == 24

    run = start(repository, slurm, requeued)
    while len(metrics(requeued)) < 2:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    tasks = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    os.kill(tasks[1], signal.SIGTERM)  # one process gets the signal; the step passes it on
    status, output = finish(run)
    assert (status, len(tasks)) == (143, 2), output
    assert "asked to stop; the steps so far are saved" in output
    assert (tmp_path / "requeued").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    assert 2 <= len(metrics(requeued)) < 24

    status, output = finish(start(repository, slurm, requeued))
    assert status == 0, output
    assert metrics(requeued) == metrics(whole)
