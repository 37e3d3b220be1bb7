"""``dreamprm status`` tells how far a run is, and leaves it alone."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import engine_toy
import pytest
from engine_toy import Squares, drive

from dreamprm_jax.cli import main as cli
from dreamprm_jax.runs.status import run_status
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run's folder whose label stage has begun."""
    write_json(tmp_path / "config.json", {})
    write_json(tmp_path / "generate" / "STARTED.json", {"fingerprint": "f"})
    write_json(tmp_path / "generate" / "DONE.json", {"fingerprint": "f", "counts": {"train problems": 7}})
    write_json(tmp_path / "label" / "STARTED.json", {"fingerprint": "f"})
    return tmp_path


def status(capsys: pytest.CaptureFixture[str], root: Path) -> list[str]:
    assert cli.main(["status", f"--workdir={root}"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_run_that_goes_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        (units,) = run_status(root)[1].units
        assert driver.poll() is None
        driver.kill()
    assert lines[0] == f"{root}: process {os.getpid()} works on it"
    assert lines[1] == "generate   done     7 train problems"
    assert lines[2] == "label      started"
    assert lines[3].startswith("  toy: ")
    assert " of 10000 units (0." in lines[3]
    assert " left, the last 0:00:" in lines[3]
    assert lines[-1] == "report     pending"
    assert 0 < units.done < 10_000
    assert units.rate is not None
    assert 0 < units.rate < 100  # two workers, 20 ms a unit at least


def test_a_run_that_stopped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = Squares(root / "log", poison=("unit3",), wrong=("unit1",))
    with pytest.raises(DataError):
        drive(root / "label", 4, factory, workers=1)
    lines = status(capsys, root)
    assert lines[0] == f"{root}: no process works on it here"
    assert lines[3].startswith("  toy: 2 of 4 units (50.0 %), the last 0:00:")
    assert lines[3].endswith("ago; run the same command again to go on")
    assert lines[4] == "    latest run: 2 done, 3 worker processes replaced"
    assert lines[5].startswith("    failed in the latest run: 2, first unit1: ValueError: unit unit1 is wrong (")


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", f"--workdir={tmp_path}"]) == 2
    assert "no run there" in capsys.readouterr().err
