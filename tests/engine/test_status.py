"""``dreamprm status`` shows the progress of a run without changing its folder."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import engine_toy
import pytest
from engine_toy import Squares, drive

from dreamprm_jax.cli import main as cli
from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.runs.stage_folder import stage_folder
from dreamprm_jax.runs.status import run_status
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a run whose label stage has started."""
    write_json(tmp_path / "config.json", to_dict(Config()))
    folder = stage_folder(Config(), tmp_path, "generate")
    folder.open({})
    folder.finish({"train problems": 7}, 65.0)
    write_json(tmp_path / "label" / "STARTED.json", {"fingerprint": "f"})
    return tmp_path


def status(capsys: pytest.CaptureFixture[str], root: Path) -> list[str]:
    assert cli.main(["status", f"--workdir={root}"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_running_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = json.dumps({"count": 10_000, "seconds": 0.02, "workers": 2})
    with (
        open(root / ".lock", "w") as lock,
        subprocess.Popen(
            [sys.executable, engine_toy.__file__, str(root / "label"), options], stderr=subprocess.DEVNULL
        ) as driver,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not any("a second" in line for line in status(capsys, root)):
            time.sleep(0.1)
        lines = status(capsys, root)
        (record,) = run_status(root)[1].work
        assert driver.poll() is None
        driver.kill()
    assert lines[0] == f"{root}: process {os.getpid()} is working on it"
    assert lines[1] == "generate   done        1:05  7 train problems"
    assert lines[2] == "label      started"
    assert lines[3].startswith("  toy: ")
    assert re.search(r" of 10000 units \(\d+\.\d %\)", lines[3])
    assert re.search(r" left, as of \d+\.\d s ago$", lines[3])
    assert lines[-1] == "report     pending"
    assert 0 < record.done < 10_000


def test_a_stopped_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = Squares(root / "log", poison=("unit3",), wrong=("unit1",))
    with pytest.raises(DataError):
        drive(root / "label", 4, factory, workers=1)
    lines = status(capsys, root)
    assert lines[0] == f"{root}: no process on this machine is working on it"
    assert lines[3].startswith("  toy: 2 of 4 units (50.0 %), stopped ")
    assert lines[3].endswith("ago; run the same command again to continue")
    assert lines[4] == "    latest run: 2 done, 3 worker processes replaced"
    assert lines[5].startswith("    failed in the latest run: 2, first unit1: ValueError: unit unit1 is wrong (")


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", f"--workdir={tmp_path}"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err


def test_work_for_other_settings_is_not_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(root / "config.json", to_dict(Config(seed=1)))
    assert status(capsys, root)[1].startswith("generate   done for other settings")
    write_json(root / "config.json", to_dict(Config(name="other")))  # has no effect on the output
    assert status(capsys, root)[1].startswith("generate   done ")


def test_training_shows_arm_step_loss_and_time_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage_folder(Config(), root, "train").open({})
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = Progress("train raw", 400, "step", 100, root / "train" / "raw" / "train")
        progress.note(loss="0.512")
        progress.record.started -= 10
        progress.add(units=50)
        progress._write()
        (line,) = (line for line in status(capsys, root) if "train raw" in line)
    assert re.match(r"  train raw: 150 of 400 steps \(37\.5 %\), \d\.?\d* a second, \d+\.\d s left", line)
    assert line.endswith(", loss 0.512")
