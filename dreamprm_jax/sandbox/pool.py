"""The judge's workers, and the programs that currently run in them. It uses no threads; all waiting is in ``wait``."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from dreamprm_jax.sandbox.control_group import ControlGroup, own_group
from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.plan import Run
from dreamprm_jax.sandbox.records import SandboxUnavailable
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES, Worker, find_offer

Item = TypeVar("Item")

_WRITTEN_FILES = 2  # files written by a child: output and results
_INPUTS_KEPT = 5  # copies of a child's inputs, in files and memory
_LOOK_SECONDS = 0.03  # interval at which finished tests of running children are compared
_ANSWER_SECONDS = 30.0  # added to the maximum duration of a child; a worker that takes longer is considered hung
_REST_SECONDS = 0.05  # pause of a slot whose worker failed; doubled for each consecutive failure
_LONGEST_REST_SECONDS = 5.0


class _Kind(NamedTuple):
    """The purpose of a worker."""

    numpy: bool  # numpy is preloaded
    reports: bool  # reports on single tests


_PLAIN = _Kind(numpy=False, reports=False)


@dataclass
class _Running(Generic[Item]):
    """A child that is running."""

    item: Item
    run: Run
    worker: Worker
    number: int
    deadline: float
    next_look: float
    cancelled: bool = False


class _Slot(Generic[Item]):
    """A place for one running program, with one worker of each kind."""

    def __init__(self) -> None:
        self.workers: dict[_Kind, Worker] = {}
        self.running: _Running[Item] | None = None
        self.failures = 0  # consecutive
        self.rests_until = 0.0


class Pool(Generic[Item]):
    """Runs children, each for an item of the caller."""

    def __init__(self, tier: str, width: int, hash_seed: int = 0, packages: Sequence[str] = OFFERED_PACKAGES) -> None:
        """Starts ``width`` plain workers, without waiting for them.

        Raises:
          OSError: if no process can be started.
        """
        self._tier = tier
        self._hash_seed = hash_seed
        self.offer = find_offer(packages)
        self._base = own_group()
        self._slots: list[_Slot[Item]] = [_Slot() for _ in range(width)]
        self._selector = selectors.DefaultSelector()
        self._number = 0
        self._failed: list[tuple[Item, jobs.Reply]] = []  # runs that could not be started
        for slot in self._slots:
            self._worker(slot, _PLAIN)

    @property
    def width(self) -> int:
        """Maximum number of concurrent programs."""
        return len(self._slots)

    def first_worker(self) -> Worker:
        """A worker that is ready, for the probe.

        Raises:
          SandboxUnavailable: if it could not lock itself down.
        """
        worker = self._worker(self._slots[0], _PLAIN)
        worker.hello()
        return worker

    def pids(self) -> set[int]:
        """Process ids of the workers, each the leader of its own session."""
        return {worker.pid for slot in self._slots for worker in slot.workers.values()}

    def running(self) -> int:
        """Number of running programs."""
        return sum(slot.running is not None for slot in self._slots)

    def failed(self) -> bool:
        """Whether ``wait`` will return a run that could not be started."""
        return bool(self._failed)

    def free(self) -> int:
        """Number of programs that can be started now."""
        now = time.monotonic()
        return sum(slot.running is None and slot.rests_until <= now for slot in self._slots)

    def start(self, item: Item, run: Run) -> None:
        """Starts a child in a free slot, which must exist. If that fails, ``wait`` returns the failure."""
        now = time.monotonic()
        slot = next(slot for slot in self._slots if slot.running is None and slot.rests_until <= now)
        self._number = secrets.randbits(63)  # programs can see it, and a counter would reveal earlier runs
        worker = None
        try:
            worker = self._worker(slot, _Kind(run.numpy, run.request.kind == jobs.RUN_REPORTING))
            worker.hello()
            run.grader.open()
            self._send(run, worker)
        except (OSError, SandboxUnavailable) as error:
            if worker is not None:
                self._discard(slot, worker)
            self._rest(slot)
            self._failed.append((item, jobs.Reply(self._number, jobs.FAILED, 0, 0.0, error=str(error))))
            return
        now = time.monotonic()
        slot.running = _Running(
            item=item,
            run=run,
            worker=worker,
            number=self._number,
            deadline=now + run.request.longest_seconds + _ANSWER_SECONDS,
            next_look=now + _LOOK_SECONDS,
        )

    def wait(self) -> Iterator[tuple[Item, jobs.Reply]]:
        """Waits briefly for children to end, and compares finished tests of the others."""
        failed, self._failed = self._failed, []
        yield from failed
        for key, _ in self._selector.select(_LOOK_SECONDS):
            worker: Worker = key.fileobj  # type: ignore[assignment]
            slot: _Slot[Item] = key.data
            if slot.running is None or slot.running.worker is not worker:
                if not self._greets(worker):  # it could not start, sent an unexpected message, or ended
                    self._discard(slot, worker)
                    self._rest(slot)
                continue
            received = worker.receive()
            reply = _explained(received, worker.group, slot.running)
            if received is None:
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
        """Ends the running children with their workers."""
        self._failed.clear()
        for slot in self._slots:
            if slot.running is not None:
                self._discard(slot, slot.running.worker)
                slot.running = None

    def close(self) -> None:
        """Ends all workers and their children."""
        for slot in self._slots:
            for worker in slot.workers.values():
                worker.close()
            slot.workers.clear()
            slot.running = None
        self._selector.close()

    def _worker(self, slot: _Slot[Item], kind: _Kind) -> Worker:
        worker = slot.workers.get(kind)
        if worker is None:
            preload = ("numpy",) if kind.numpy and "numpy" in self.offer.packages else ()
            worker = Worker(self._tier, self.offer, preload, self._hash_seed, kind.reports, self._base)
            slot.workers[kind] = worker
            self._selector.register(worker, selectors.EVENT_READ, slot)
        return worker

    def _send(self, run: Run, worker: Worker) -> None:
        source = os.memfd_create("job", os.MFD_CLOEXEC)
        try:
            data = run.job()
            if worker.group is not None:
                memory = run.request.memory_bytes + _WRITTEN_FILES * run.request.file_bytes
                reports = run.request.kind == jobs.RUN_REPORTING
                worker.group.begin(memory + _INPUTS_KEPT * len(data), reports)
            view = memoryview(data)
            while view:
                view = view[os.write(source, view) :]
            request = run.request._replace(number=self._number)
            worker.send(request, (source, run.grader.output_file, run.grader.result_file))
        finally:
            os.close(source)

    def _greets(self, worker: Worker) -> bool:
        """Whether the message of an idle worker is that it is ready."""
        if worker.started:
            return False
        try:
            worker.hello()
        except SandboxUnavailable:
            return False
        return True

    def _rest(self, slot: _Slot[Item]) -> None:
        """Pauses a slot: the cause of its failure, such as a full process table, may be temporary."""
        rest = min(_REST_SECONDS * 2**slot.failures, _LONGEST_REST_SECONDS)
        slot.failures = min(slot.failures + 1, 16)
        slot.rests_until = time.monotonic() + rest

    def _end(self, slot: _Slot[Item], reply: jobs.Reply | None, error: str) -> tuple[Item, jobs.Reply]:
        running = slot.running
        assert running is not None
        slot.running = None
        if reply is None:
            reply = jobs.Reply(running.number, jobs.FAILED, 0, 0.0, error=error)
        if reply.ending == jobs.FAILED:
            self._rest(slot)
        else:
            slot.failures = 0
        return running.item, reply

    def _cancel(self, running: _Running[Item]) -> None:
        try:
            running.worker.send(jobs.Request(jobs.CANCEL, running.number))
        except OSError:
            running.deadline = 0.0

    def _discard(self, slot: _Slot[Item], worker: Worker) -> None:
        self._selector.unregister(worker)
        worker.close()
        slot.workers = {kind: other for kind, other in slot.workers.items() if other is not worker}


def _explained(reply: jobs.Reply | None, group: ControlGroup | None, running: _Running[Item]) -> jobs.Reply | None:
    """A worker's reply (None: it ended), completed with data of its control group."""
    if group is None:
        return reply
    killed = reply is not None and (reply.ending, reply.value) == (jobs.SIGNALLED, signal.SIGKILL)
    if (reply is None or killed) and group.reached():
        reply = (reply or jobs.Reply(running.number, 0, signal.SIGKILL, 0.0))._replace(ending=jobs.MEMORY_LIMIT)
    if reply is not None and running.run.request.kind == jobs.RUN_REPORTING and (peak := group.peak()) is not None:
        reply = reply._replace(peak_kib=peak >> 10)
    return reply
