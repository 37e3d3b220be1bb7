"""The schedule under random sequences of answers and worker deaths: each unit ends once; only poison units fail."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dreamprm_jax.engine.executors.protocol import Event, UnitResult
from dreamprm_jax.engine.schedule import STRIKES, Schedule


class RandomExecutor:
    """An executor without processes, whose events are random."""

    def __init__(self, draw: random.Random, size: int, threads: int, poison: set[str], deaths: int) -> None:
        self.draw, self.size, self.poison, self.deaths = draw, size, poison, deaths
        self.threads = self.suspects = threads
        self.units: list[list[str]] = [[] for _ in range(size)]
        self.starting: set[int] = set()
        self.started: dict[str, int] = {}
        self.most = 0

    def start(self, worker: int) -> None:
        self.units[worker] = []
        self.starting.add(worker)

    def send(self, worker: int, key: str, payload: Any) -> None:
        assert worker not in self.starting
        self.units[worker].append(key)
        self.most = max(self.most, len(self.units[worker]))

    def wait(self, seconds: float) -> list[Event]:
        worker = self.draw.randrange(self.size)
        if worker in self.starting:
            self.starting.discard(worker)
            return [Event(worker, "ready")]
        running = self.units[worker][: self.threads]
        if not running:
            return []
        key = self.draw.choice(running)
        if key in self.poison:
            self.started[key] = self.started.get(key, 0) + 1
            return [Event(worker, "died", value="signal 11")]
        if self.deaths and self.draw.random() < 0.02:
            self.deaths -= 1
            return [Event(worker, "died", value="signal 9")]
        self.units[worker].remove(key)
        return [Event(worker, "done", key, UnitResult(None))]

    def close(self, finished: bool) -> None: ...


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (3, 1), (2, 3)])
def test_every_unit_finishes_once(size: int, threads: int) -> None:
    for seed in range(100):
        draw = random.Random(seed)
        poison = {f"{draw.randrange(60)}" for _ in range(draw.randrange(3))}
        executor = RandomExecutor(draw, size, threads, poison, deaths=STRIKES - 1)  # too few to fail a healthy unit
        schedule = Schedule(executor)
        remaining = [f"{number}" for number in range(60)]
        finished: dict[str, str] = {}
        while remaining or schedule.in_flight:
            while remaining and schedule.has_room():
                schedule.assign(remaining.pop(), None)
            for unit in schedule.wait(0.0):
                assert unit.key not in finished
                assert unit.key not in schedule
                finished[unit.key] = unit.kind
            assert schedule.in_flight <= size * (threads + 1)
        assert {key for key, kind in finished.items() if kind == "failed"} == poison
        assert len(finished) == 60
        assert executor.most <= threads + 1
        assert all(1 <= count <= STRIKES for count in executor.started.values())
