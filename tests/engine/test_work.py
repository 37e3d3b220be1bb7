"""The label stage's work in a worker: verdicts are cached by text, and a stage survives killed workers."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.config import Config, SandboxConfig, to_dict
from dreamprm_jax.engine.schedule import STRIKES
from dreamprm_jax.labeling.rollouts.work import RememberingJudge
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Problem, TestCase
from dreamprm_jax.stages.runner import run_stage

DOUBLE = Problem("double", "Double", "Print twice the number.", "own", "c", "2024-01-01T00:00:00", "easy")
TESTS = (TestCase("2\n", "4\n"), TestCase("5\n", "10\n"))


def test_a_program_is_judged_once_per_problem() -> None:
    config = SandboxConfig(cpu_seconds=1.0, wall_seconds=60.0)
    codes = ["print(2 * int(input()))", "print(input())", "while True: pass", "1 / 0"]
    judge = RememberingJudge(config, 1)
    evaluated: list[str] = []
    evaluate = judge.judge.evaluate

    def recording(tasks: Any) -> Any:
        listed = list(tasks)
        evaluated.extend(task.code for task in listed)
        return evaluate(listed)

    judge.judge.evaluate = recording  # type: ignore[method-assign]
    try:
        assert judge(DOUBLE, TESTS, codes, codes) == ["AC", "WA", "TLE", "RE"]
        assert evaluated == codes
        assert judge(DOUBLE, TESTS, codes[::-1], codes[::-1]) == ["RE", "TLE", "WA", "AC"]
        assert len(evaluated) == 4
        other = dataclasses.replace(DOUBLE, problem_id="other")
        assert judge(other, TESTS, codes[:1], codes[:1]) == ["AC"]
        assert len(evaluated) == 5
    finally:
        judge.close()


def children(parent: int) -> list[int]:
    """Child processes of a process."""
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_label_stage_whose_workers_are_killed(tmp_path: Path, tiny_config: Config, seed: int) -> None:
    """Sends SIGKILL to workers at random moments. The rows equal an undisturbed run's, and no sandbox process is left.

    There are ``STRIKES - 1`` kills, since all of them may hit the same unit.
    """
    draw = random.Random(seed)
    problems = dataclasses.replace(tiny_config.problems, train_count=12)
    label = dataclasses.replace(tiny_config.label, rollouts=8)
    config = dataclasses.replace(tiny_config, problems=problems, label=label)
    labels = []
    for name in ("undisturbed", "disturbed"):
        run_stage(config, tmp_path / name, "generate")
    script = (
        "import json, sys; from pathlib import Path; from dreamprm_jax.config import freeze\n"
        "from dreamprm_jax.stages.runner import run_stage\n"
        "tuples = lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}\n"
        "run_stage(freeze(json.loads(sys.argv[1], object_hook=tuples)), Path(sys.argv[2]), 'label')\n"
    )
    command = [sys.executable, "-c", script, json.dumps(to_dict(config)), str(tmp_path / "disturbed")]
    seen: set[int] = set()
    killed: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        assert driver.stderr is not None
        threading.Thread(target=driver.stderr.read, daemon=True).start()
        pause = time.monotonic()
        while driver.poll() is None:
            workers = [pid for pid in children(driver.pid) if b"engine.executors.worker" in command_line(pid)]
            judging = [pid for pid in workers if children(pid)]
            seen.update(pid for worker in judging for pid in children(worker))
            if judging and len(killed) < STRIKES - 1 and time.monotonic() > pause:
                killed.append(draw.choice(judging))
                os.kill(killed[-1], signal.SIGKILL)
                pause = time.monotonic() + draw.uniform(0.3, 1.0)
            time.sleep(0.02)
        assert driver.returncode == 0
    assert killed
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in seen) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in seen if Path(f"/proc/{pid}").exists()] == []
    run_stage(config, tmp_path / "undisturbed", "label")
    for name in ("undisturbed", "disturbed"):
        labels.append(Paths(tmp_path / name).step_labels().read_bytes())
    assert labels[0] == labels[1]


def command_line(pid: int) -> bytes:
    """Command line of a process; empty if it has exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
