"""The judge's workers, and the programs that run in them at this moment. No threads: time passes in ``wait``."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.plan import Ran, Run
from dreamprm_jax.sandbox.worker import Worker, find_offer

Item = TypeVar("Item")

_LOOK_SECONDS = 0.03  # how often a running child's finished tests are compared
_ANSWER_SECONDS = 30.0  # beyond the longest that a child may take: then the worker itself hangs


@dataclass
class _Running(Generic[Item]):
    """A child that is running."""

    item: Item
    run: Run
    worker: Worker
    number: int
    deadline: float
    next_look: float
    overlapped: bool  # another child ran at the same time
    cancelled: bool = False


class _Slot(Generic[Item]):
    """A place for one running program, with its workers: a plain one, and one that has numpy loaded."""

    def __init__(self) -> None:
        self.workers: dict[bool, Worker] = {}
        self.running: _Running[Item] | None = None


class Pool(Generic[Item]):
    """Runs children, each for an item of the caller's."""

    def __init__(self, tier: str, width: int, hash_seed: int = 0) -> None:
        """Starts ``width`` plain workers, without waiting for them."""
        self._tier = tier
        self._hash_seed = hash_seed
        self._offer = find_offer()
        self._slots: list[_Slot[Item]] = [_Slot() for _ in range(width)]
        self._selector = selectors.DefaultSelector()
        self._number = 0
        for slot in self._slots:
            self._worker(slot, numpy=False)

    @property
    def width(self) -> int:
        """How many programs may run at a time."""
        return len(self._slots)

    def first_worker(self) -> Worker:
        """A worker that is ready, to be probed.

        Raises:
          SandboxUnavailable: if it could not lock itself down.
        """
        worker = self._worker(self._slots[0], numpy=False)
        worker.hello()
        return worker

    def pids(self) -> set[int]:
        """Process ids of the workers, each the leader of its own session."""
        return {worker.pid for slot in self._slots for worker in slot.workers.values()}

    def running(self) -> int:
        """How many programs run."""
        return sum(slot.running is not None for slot in self._slots)

    def runs_alone(self) -> bool:
        """Whether the program that runs must be alone."""
        return any(slot.running is not None and slot.running.run.alone for slot in self._slots)

    def start(self, item: Item, run: Run) -> None:
        """Starts a child in a free slot; there must be one.

        Raises:
          SandboxUnavailable: if a worker cannot be started.
        """
        slot = next(slot for slot in self._slots if slot.running is None)
        worker = self._worker(slot, run.numpy)
        worker.hello()
        others = [other.running for other in self._slots if other.running is not None]
        for other in others:
            other.overlapped = True
        self._number += 1
        now = time.monotonic()
        slot.running = running = _Running(
            item=item,
            run=run,
            worker=worker,
            number=self._number,
            deadline=now + run.request.longest_seconds + _ANSWER_SECONDS,
            next_look=now + _LOOK_SECONDS,
            overlapped=bool(others),
        )
        run.grader.open()
        source = os.memfd_create("job", os.MFD_CLOEXEC)
        try:
            view = memoryview(run.job())
            while view:
                view = view[os.write(source, view) :]
            request = run.request._replace(number=self._number)
            worker.send(request, (source, run.grader.output_file, run.grader.result_file))
        except OSError:
            running.deadline = 0.0  # the worker is gone: ``wait`` replaces it
        finally:
            os.close(source)

    def wait(self) -> Iterator[tuple[Item, Ran]]:
        """Waits a moment for children to end; compares what the others have finished so far."""
        for key, _ in self._selector.select(_LOOK_SECONDS):
            worker: Worker = key.fileobj  # type: ignore[assignment]
            slot: _Slot[Item] = key.data
            if slot.running is None or slot.running.worker is not worker:
                if worker.started:  # it said something unasked, or ended
                    self._discard(slot, worker)
                else:
                    worker.hello()
                continue
            reply = worker.receive()
            if reply is None:
                self._discard(slot, worker)
            yield self._end(slot, reply, "the worker ended")
        now = time.monotonic()
        for slot in self._slots:
            running = slot.running
            if running is None:
                continue
            if now > running.deadline:
                self._discard(slot, running.worker)
                yield self._end(slot, None, "the worker did not answer")
            elif now > running.next_look and not running.cancelled:
                running.next_look = now + _LOOK_SECONDS
                running.run.grader.advance()
                if running.run.grader.failure is not None:
                    running.cancelled = True
                    self._cancel(running)

    def abandon(self) -> None:
        """Ends the children that run, with their workers."""
        for slot in self._slots:
            if slot.running is not None:
                self._discard(slot, slot.running.worker)
                slot.running = None

    def close(self) -> None:
        """Ends everything."""
        for slot in self._slots:
            for worker in slot.workers.values():
                worker.close()
            slot.workers.clear()
            slot.running = None
        self._selector.close()

    def _worker(self, slot: _Slot[Item], numpy: bool) -> Worker:
        worker = slot.workers.get(numpy)
        if worker is None:
            preload = ("numpy",) if numpy and "numpy" in self._offer.packages else ()
            worker = Worker(self._tier, self._offer, preload, self._hash_seed)
            slot.workers[numpy] = worker
            self._selector.register(worker, selectors.EVENT_READ, slot)
        return worker

    def _end(self, slot: _Slot[Item], reply: jobs.Reply | None, error: str) -> tuple[Item, Ran]:
        running = slot.running
        assert running is not None
        slot.running = None
        if reply is None:
            reply = jobs.Reply(running.number, jobs.FAILED, 0, 0.0, 0, error)
        return running.item, Ran(reply, alone=not running.overlapped)

    def _cancel(self, running: _Running[Item]) -> None:
        try:
            running.worker.send(jobs.Request(jobs.CANCEL, running.number))
        except OSError:
            running.deadline = 0.0

    def _discard(self, slot: _Slot[Item], worker: Worker) -> None:
        self._selector.unregister(worker)
        worker.close()
        slot.workers = {numpy: other for numpy, other in slot.workers.items() if other is not worker}
