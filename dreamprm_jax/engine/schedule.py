"""Assigns units to workers, and retries the units of workers that died.

A unit may kill its worker (native crash, out of memory). If a dead worker had several running units, all of them are
suspects. Each suspect is retried alone in a worker, so that a further death has one possible cause. A unit that was
running at ``STRIKES`` deaths is reported as failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dreamprm_jax.engine.executors.protocol import Executor
from dreamprm_jax.schema import DataError

STRIKES = 3  # worker deaths after which a unit fails
_MAX_DEATHS_AT_START = 5  # consecutive deaths of workers before they became ready
_QUEUED = 1  # units queued in a worker besides the running ones, so that it does not wait for the driver


class FinishedUnit(NamedTuple):
    """The outcome of a unit."""

    key: str
    kind: Literal["done", "failed"]
    value: Any  # the UnitResult if done, the reason if failed


@dataclass
class _WorkerState:
    """A worker's state, as known to the driver."""

    ready: bool = False
    units: dict[str, Any] = field(default_factory=dict)  # units sent and not finished, in order of sending
    quarantined: bool = False  # runs one suspect and is sent no other unit


class Schedule:
    """Keeps an executor's workers busy. Holds only the units that are assigned to workers or are to be retried."""

    def __init__(self, executor: Executor) -> None:
        """Starts all workers, without waiting for them."""
        self.executor = executor
        self.deaths = 0
        self._workers = [_WorkerState() for _ in range(executor.size)]
        self._in_flight: set[str] = set()
        self._strikes: dict[str, int] = {}
        self._retries: deque[tuple[str, Any]] = deque()  # units of dead workers that were not running
        self._suspects: deque[tuple[str, Any]] = deque()
        self._deaths_at_start = 0
        for worker in range(executor.size):
            executor.start(worker)

    @property
    def in_flight(self) -> int:
        """Number of units that were assigned and have not finished."""
        return len(self._in_flight)

    def __contains__(self, key: str) -> bool:
        return key in self._in_flight

    def has_room(self) -> bool:
        """Whether a worker can be sent another unit now."""
        return not self._retries and self._free() is not None

    def assign(self, key: str, payload: Any) -> None:
        """Sends a unit to the worker that has the fewest units. Requires ``has_room()``."""
        worker = self._free()
        assert worker is not None
        self._in_flight.add(key)
        self._send(worker, key, payload)

    def wait(self, seconds: float) -> Iterator[FinishedUnit]:
        """Waits up to ``seconds`` and yields the units that have finished.

        Raises:
          DataError: if the workers cannot be started.
        """
        for event in self.executor.wait(seconds):
            state = self._workers[event.worker]
            if event.kind == "ready":
                state.ready = True
            elif event.kind == "broken":
                raise DataError(str(event.value))
            elif event.kind == "died":
                yield from self._died(event.worker, event.value)
            elif event.key in state.units:  # otherwise the event is a late answer of a worker that was reported as dead
                del state.units[event.key]
                state.quarantined = False
                self._deaths_at_start = 0
                yield self._finish(event.key, event.kind, event.value)
        self._retry()

    def _died(self, worker: int, cause: str) -> Iterator[FinishedUnit]:
        self.deaths += 1
        state, self._workers[worker] = self._workers[worker], _WorkerState()
        if not state.ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= _MAX_DEATHS_AT_START:
                raise DataError(
                    f"{self._deaths_at_start} worker processes in a row ended ({cause}) before they were ready; is "
                    "there enough memory for engine.workers processes? Their own messages are above"
                )
        for number, (key, payload) in enumerate(state.units.items()):
            if number >= self.executor.suspects:
                self._retries.append((key, payload))
                continue
            self._strikes[key] = self._strikes.get(key, 0) + 1
            if self._strikes[key] >= STRIKES:
                yield self._finish(key, "failed", f"ended its worker process {STRIKES} times (last: {cause})")
            else:
                self._suspects.append((key, payload))
        self.executor.start(worker)

    def _finish(self, key: str, kind: Literal["done", "failed"], value: Any) -> FinishedUnit:
        self._in_flight.discard(key)
        self._strikes.pop(key, None)
        return FinishedUnit(key, kind, value)

    def _retry(self) -> None:
        while self._suspects:
            idle = next((w for w, state in enumerate(self._workers) if state.ready and not state.units), None)
            if idle is None:
                break
            self._workers[idle].quarantined = True
            self._send(idle, *self._suspects.popleft())
        while self._retries and (worker := self._free()) is not None:
            self._send(worker, *self._retries.popleft())

    def _send(self, worker: int, key: str, payload: Any) -> None:
        self._workers[worker].units[key] = payload
        self.executor.send(worker, key, payload)

    def _free(self) -> int | None:
        """The ready worker with the fewest units, or None if every worker is full."""
        fewest, chosen = self.executor.threads + _QUEUED, None
        for worker, state in enumerate(self._workers):
            if state.ready and not state.quarantined and len(state.units) < fewest:
                fewest, chosen = len(state.units), worker
        return chosen
