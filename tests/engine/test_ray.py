"""The ``ray`` executor: the same values when actors or nodes die."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_toy import Broken, Squares, drive, executions, units, values

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.run import make_executor
from dreamprm_jax.engine.schedule import STRIKES
from dreamprm_jax.schema import DataError


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"pip install 'dreamprm-jax\[ray\]'"):
        make_executor(EngineConfig(executor="ray"), Broken())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node without CPUs, and two nodes with one CPU each, on this machine."""
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def expected(count: int) -> dict[str, list[object]]:
    return {key: [number * number, ""] for key, number in units(count)}


@pytest.mark.slow
def test_ray_failures_are_named(cluster: Any, tmp_path: Path) -> None:
    factory = Squares(tmp_path / "log", poison=("unit3",), wrong=("unit7",))
    with pytest.raises(DataError, match=r"2 unit\(s\) failed, first unit"):
        drive(tmp_path, 20, factory, executor="ray")
    assert {key for key, _ in units(20)} - set(values(tmp_path / "toy.journal")) == {"unit3", "unit7"}
    assert executions(tmp_path / "log")["unit3"] == 3
    with pytest.raises(DataError, match="ValueError: no such server"):
        drive(tmp_path, 20, Broken(), executor="ray")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_actors_killed_at_random_moments(cluster: Any, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    log, finished, kills = tmp_path / "log", threading.Event(), 0

    def kill() -> None:
        nonlocal kills
        while kills < STRIKES - 1 and not finished.wait(draw.uniform(0.2, 0.6)):
            pids = [int(line.split()[1]) for line in log.read_text().splitlines()[-4:]] if log.exists() else []
            alive = [pid for pid in set(pids) if Path(f"/proc/{pid}").exists()]
            if alive:
                os.kill(draw.choice(alive), signal.SIGKILL)
                kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    summary = drive(tmp_path, 300, Squares(log, seconds=0.02), executor="ray")
    finished.set()
    killer.join()
    assert values(tmp_path / "toy.journal") == expected(300)
    assert 0 < summary.worker_deaths <= kills
    assert sum(executions(log).values()) <= 300 + 2 * kills  # the running unit and the queued one


def children(parent: int) -> list[int]:
    """Child processes of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_node_that_dies_loses_nothing(cluster: Any, tmp_path: Path, seed: int) -> None:
    """One of two nodes is killed: the other executes the remaining units; then a new node joins."""
    cluster, nodes = cluster
    raylet = nodes[0].all_processes["raylet"][0].process
    log, moment = tmp_path / "log", random.Random(seed).randrange(150)

    def kill() -> None:
        while not (log.exists() and len(executions(log)) > moment):
            time.sleep(0.02)
        for pid in [raylet.pid, *children(raylet.pid)]:  # as if the machine failed
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = drive(tmp_path, 400, Squares(log, seconds=0.02, together=2), executor="ray")
    killer.join()
    assert values(tmp_path / "toy.journal") == expected(400)
    assert (summary.worker_deaths, sum(executions(log).values()) <= 400 + 2) == (1, True)
    nodes[0] = cluster.add_node(num_cpus=1)
    import ray

    deadline = time.monotonic() + 60
    while ray.cluster_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.cluster_resources().get("CPU") == 2
    (tmp_path / "more").mkdir()
    both = Squares(tmp_path / "more" / "log", seconds=0.02, together=2)  # finishes only if both nodes take part
    drive(tmp_path / "more", 100, both, executor="ray", workers=2)
