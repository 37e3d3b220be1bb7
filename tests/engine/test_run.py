"""``run_units``: each unit is committed once despite killed processes; backpressure, graceful stop, named failures."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import engine_toy
import pytest
from engine_toy import Broken, Squares, drive, executions, units, values

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.local import LocalExecutor
from dreamprm_jax.engine.run import make_executor, run_units
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import progress_path
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json


def expected(count: int) -> dict[str, list[object]]:
    return {key: [number * number, ""] for key, number in units(count)}


def processes(log: Path, sign: str = "+") -> list[int]:
    """Processes that started (+) or closed gracefully (-)."""
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(sign)]


def exited(pids: list[int]) -> bool:
    """Whether the processes exit within 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 2)])
def test_every_unit_is_done_once(tmp_path: Path, workers: int, threads: int) -> None:
    together = Squares(tmp_path / "log", together=workers)
    summary = drive(tmp_path, 40, together, workers=workers, threads=threads)
    assert (summary.new, summary.worker_deaths, summary.counts) == (40, 0, {"done": 40})
    assert values(tmp_path / "toy.journal") == expected(40)
    assert set(executions(tmp_path / "log").values()) == {1}
    started = processes(tmp_path / "log")
    assert len(started) == workers
    assert sorted(processes(tmp_path / "log", "-")) == sorted(started)  # all closed gracefully
    assert exited(started)
    # No units are missing, so no worker is started.
    assert drive(tmp_path, 40, Squares(tmp_path / "log"), workers=workers).new == 0
    assert len(processes(tmp_path / "log")) == workers


def test_failures_are_named_and_done_again(tmp_path: Path) -> None:
    """Of three running units, the one that kills its worker is identified: the others are executed at most twice."""
    factory = Squares(tmp_path / "log", poison=("unit3",), wrong=("unit7",))
    with pytest.raises(DataError, match=r"2 unit\(s\) failed, first unit\d: .* run the same command again"):
        drive(tmp_path, 20, factory, workers=1, threads=3)
    done = values(tmp_path / "toy.journal")
    assert {key for key, _ in units(20)} - set(done) == {"unit3", "unit7"}
    counts = executions(tmp_path / "log")
    assert counts["unit3"] == 3
    assert sorted(counts.values())[:-3] == [1] * 17  # two other suspects were executed again
    progress = read_json(progress_path(tmp_path / "toy.journal"))
    assert [progress[name] for name in ("done", "planned", "failed", "worker_deaths")] == [18, 20, 2, 3]
    (tmp_path / "log").unlink()
    assert drive(tmp_path, 20, Squares(tmp_path / "log"), workers=2).new == 2
    assert executions(tmp_path / "log") == {"unit3": 1, "unit7": 1}


def test_the_example_of_the_documentation(tmp_path: Path, repository: Path) -> None:
    module, script = re.findall(r"```python\n(.*?)```", (repository / "docs" / "engine.md").read_text(), re.DOTALL)
    (tmp_path / "squares.py").write_text(module)
    (tmp_path / "script.py").write_text(script)
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "144\n", run.stderr


@pytest.mark.parametrize(
    ("kill", "message"),
    [(False, r"ValueError: no such server \(engine_toy.py"), (True, r"in a row ended \(signal 9\)")],
)
def test_workers_that_cannot_start_end_the_run(tmp_path: Path, kill: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        drive(tmp_path, 5, Broken(kill), workers=2)


def test_a_data_error_of_a_unit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the server does not know the model$"):
        drive(tmp_path, 1000, Squares(tmp_path / "log", hopeless=("unit7",)), workers=1)
    assert set(values(tmp_path / "toy.journal")) == {f"unit{number}" for number in range(7)}
    assert exited(processes(tmp_path / "log"))


def test_a_factory_that_cannot_be_sent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be sent"):
        make_executor(EngineConfig(), lambda: None)  # type: ignore[arg-type, return-value]
    with monkeypatch.context() as patch:
        patch.setattr(Broken, "__module__", "__main__")
        with pytest.raises(DataError, match="defined in the main script"):
            make_executor(EngineConfig(), Broken())
    with pytest.raises(DataError, match=r"engine\.workers -1"):
        make_executor(EngineConfig(workers=-1), Broken())


def test_units_are_consumed_as_workers_become_free(tmp_path: Path) -> None:
    taken = 0
    most = 0

    def payloads():
        nonlocal taken, most
        for item in units(60) + units(60):  # a repeated key is executed once
            taken += 1
            if taken <= 60:
                most = max(most, taken - len(journal))
            yield item

    with Journal(tmp_path / "toy.journal") as journal:
        executor = LocalExecutor(Squares(tmp_path / "log"), workers=2, threads=1)
        assert run_units(payloads(), executor, journal, planned=60, description="toy").new == 60
    assert taken == 120
    assert most <= 2 * 2 + 1  # workers x (threads + 1), and the one that is being assigned
    assert set(executions(tmp_path / "log").values()) == {1}


def test_a_value_may_be_rejected(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "toy.journal") as journal,
        pytest.raises(DataError, match=r"1 unit\(s\) failed, first unit2: odd"),
    ):
        run_units(
            units(4),
            LocalExecutor(Squares(tmp_path / "log"), 1, 1),
            journal,
            planned=4,
            description="toy",
            find_error=lambda key, value: "odd" if key == "unit2" else None,
        )
    assert set(values(tmp_path / "toy.journal")) == {"unit0", "unit1", "unit3"}


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_moments(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    executor = LocalExecutor(Squares(tmp_path / "log", seconds=0.01), workers=2, threads=1)
    kills = 0

    def kill() -> None:
        nonlocal kills
        for _ in range(4):
            time.sleep(draw.uniform(0.05, 0.6))
            pids = executor.pids()
            if pids:
                os.kill(draw.choice(pids), signal.SIGKILL)
                kills += 1

    killer = threading.Thread(target=kill)
    with Journal(tmp_path / "toy.journal") as journal:
        killer.start()
        summary = run_units(units(200), executor, journal, planned=200, description="toy")
        killer.join()
    assert values(tmp_path / "toy.journal") == expected(200)
    assert 0 < summary.worker_deaths <= kills
    assert sum(executions(tmp_path / "log").values()) <= 200 + kills  # the running unit of each killed worker


def start_driver(folder: Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, engine_toy.__file__, str(folder), json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_driver_killed_at_random_moments(tmp_path: Path, seed: int) -> None:
    """Committed units are not executed again after kills at random moments; no worker outlives its driver."""
    draw = random.Random(seed)
    journal, log = tmp_path / "toy.journal", tmp_path / "log"
    kills, done = 0, 0
    while True:
        process = start_driver(tmp_path, count=120, seconds=0.01, workers=2)
        enough = done + draw.randint(0, 50) if kills < 3 else 1000
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= enough):
            time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        kills += process.returncode != 0
        assert exited(processes(log) if log.exists() else [])
        assert len(values(journal)) >= done
        done = len(values(journal))
        if process.returncode == 0:
            break
    assert values(journal) == expected(120)
    counts = executions(log)
    assert kills
    assert sum(counts.values()) <= 120 + kills * 2 * 2  # units in flight: workers x (threads + 1)
    assert max(counts.values()) <= 1 + kills


def test_sigterm_lets_work_in_flight_finish(tmp_path: Path) -> None:
    """No new unit starts, units in flight are committed, and the status is 143. The next run executes the rest."""
    process = start_driver(tmp_path, count=100, seconds=0.2, workers=2, grace_seconds=30)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        (tmp_path / "toy.journal").exists() and (tmp_path / "toy.journal").read_bytes().count(b"\n") > 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"waiting up to 30 s" in errors
    done = set(values(tmp_path / "toy.journal"))
    assert f"stopped with {len(done)} of 100 done, 0 in flight dropped".encode() in errors
    assert 3 < len(done) < 60
    assert set(executions(tmp_path / "log")) == done
    assert exited(processes(tmp_path / "log"))
    assert drive(tmp_path, 100, Squares(tmp_path / "log"), workers=2).new == 100 - len(done)
    assert set(executions(tmp_path / "log").values()) == {1}


def test_sigterm_drops_slow_units(tmp_path: Path) -> None:
    process = start_driver(tmp_path, count=5, seconds=60, workers=1, grace_seconds=0.2)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / "log").exists() and executions(tmp_path / "log")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"stopped with 0 of 5 done, 2 in flight dropped" in errors
    assert exited(processes(tmp_path / "log"))
