"""Which unit goes to which worker, and what a worker's death means for the units that it had.

A unit may be what kills its worker (a native crash, memory). With several units in a dead worker, the culprit is not
known: all that were running are suspects, and each is tried again in a worker that has nothing else, so that from then
on a death has one cause. A unit that was there at ``STRIKES`` deaths is given up and reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dreamprm_jax.engine.executors.protocol import Executor
from dreamprm_jax.schema import DataError

STRIKES = 3  # deaths of a worker around one unit
_DEATHS_AT_START = 5  # in a row, of workers that had done nothing yet
_AHEAD = 1  # units that wait in a worker beside the running ones, so that it need not wait for the driver


class Ended(NamedTuple):
    """A unit's end."""

    key: str
    kind: Literal["done", "failed"]
    value: Any  # done: the UnitResult; failed: why


@dataclass
class _Seat:
    """A worker as the driver sees it."""

    ready: bool = False
    units: dict[str, Any] = field(default_factory=dict)  # sent and not ended, in that order
    quarantined: bool = False  # has one suspect unit and gets no other


class Schedule:
    """Keeps an executor's workers busy. Holds no more units than the workers can have in hand, and the suspects."""

    def __init__(self, executor: Executor) -> None:
        """Starts all workers, without waiting for them."""
        self.executor = executor
        self.deaths = 0
        self._seats = [_Seat() for _ in range(executor.size)]
        self._held: set[str] = set()
        self._strikes: dict[str, int] = {}
        self._again: deque[tuple[str, Any]] = deque()  # units of dead workers that are under no suspicion
        self._suspects: deque[tuple[str, Any]] = deque()
        self._deaths_at_start = 0
        for worker in range(executor.size):
            executor.start(worker)

    @property
    def in_flight(self) -> int:
        """Units that were handed over and have not ended."""
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def has_room(self) -> bool:
        """Whether a unit can be handed over and go to a worker at once."""
        return not self._again and self._free() is not None

    def hand(self, key: str, payload: Any) -> None:
        """Gives a unit to the worker that has the least; call it where ``has_room``."""
        worker = self._free()
        assert worker is not None
        self._held.add(key)
        self._send(worker, key, payload)

    def wait(self, seconds: float) -> Iterator[Ended]:
        """Units that have ended, after a wait of up to ``seconds``.

        Raises:
          DataError: where the workers cannot be started.
        """
        for event in self.executor.wait(seconds):
            seat = self._seats[event.worker]
            if event.kind == "ready":
                seat.ready = True
            elif event.kind == "broken":
                raise DataError(str(event.value))
            elif event.kind == "died":
                yield from self._died(event.worker, event.value)
            elif event.key in seat.units:  # else: a late answer of a worker that was given up
                del seat.units[event.key]
                seat.quarantined = False
                self._deaths_at_start = 0
                yield self._end(event.key, event.kind, event.value)
        self._hand_again()

    def _died(self, worker: int, how: str) -> Iterator[Ended]:
        self.deaths += 1
        seat, self._seats[worker] = self._seats[worker], _Seat()
        if not seat.ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= _DEATHS_AT_START:
                raise DataError(
                    f"{self._deaths_at_start} worker processes in a row ended ({how}) before they could work; is there "
                    "enough memory for engine.workers processes? Their own messages are above"
                )
        for number, (key, payload) in enumerate(seat.units.items()):
            if number >= self.executor.suspects:
                self._again.append((key, payload))
                continue
            self._strikes[key] = self._strikes.get(key, 0) + 1
            if self._strikes[key] >= STRIKES:
                yield self._end(key, "failed", f"ended its worker process {STRIKES} times (last: {how})")
            else:
                self._suspects.append((key, payload))
        self.executor.start(worker)

    def _end(self, key: str, kind: Literal["done", "failed"], value: Any) -> Ended:
        self._held.discard(key)
        self._strikes.pop(key, None)
        return Ended(key, kind, value)

    def _hand_again(self) -> None:
        while self._suspects:
            idle = next((w for w, seat in enumerate(self._seats) if seat.ready and not seat.units), None)
            if idle is None:
                break
            self._seats[idle].quarantined = True
            self._send(idle, *self._suspects.popleft())
        while self._again and (worker := self._free()) is not None:
            self._send(worker, *self._again.popleft())

    def _send(self, worker: int, key: str, payload: Any) -> None:
        self._seats[worker].units[key] = payload
        self.executor.send(worker, key, payload)

    def _free(self) -> int | None:
        """The ready worker that has the fewest units, where one can take another."""
        least, chosen = self.executor.threads + _AHEAD, None
        for worker, seat in enumerate(self._seats):
            if seat.ready and not seat.quarantined and len(seat.units) < least:
                least, chosen = len(seat.units), worker
        return chosen
