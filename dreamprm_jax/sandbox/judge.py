"""The judge: a pool of workers, driven by one loop without threads, and results in the order of the tasks."""

from __future__ import annotations

import collections
import os
import selectors
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox.inside import jobs
from dreamprm_jax.sandbox.plan import Plan, Ran, Run, judge_task
from dreamprm_jax.sandbox.probe import check_worker
from dreamprm_jax.sandbox.records import MODES, TIERS, JudgeResult, JudgeTask, Limits
from dreamprm_jax.sandbox.worker import Worker, find_offer
from dreamprm_jax.schema import DataError

_LOOK_SECONDS = 0.03  # how often a running child's finished tests are compared
_ANSWER_SECONDS = 30.0  # beyond the wall limit: then the worker itself hangs
_STARTED_PER_WORKER = 4  # tasks begun at a time
_WINDOW_PER_WORKER = 256  # results that wait for an earlier one


@dataclass
class _Active:
    """A task that has begun."""

    index: int
    plan: Plan
    run: Run


@dataclass
class _Running:
    """A child that is running."""

    active: _Active
    slot: _Slot
    worker: Worker
    number: int
    deadline: float
    next_look: float
    overlapped: bool
    cancelled: bool = False


class _Slot:
    """One of the judge's places for a running program, with its workers: a plain one, and one with numpy loaded."""

    def __init__(self) -> None:
        self.workers: dict[bool, Worker] = {}
        self.running: _Running | None = None


class Judge:
    """Runs untrusted programs and judges them. A context manager; ``close`` leaves no process behind.

    Nothing is forked from the calling process: every worker is an interpreter of its own, so the caller may hold jax,
    threads or secrets. One ``evaluate`` at a time.
    """

    def __init__(
        self,
        mode: str = "faithful",
        tier: str = "PORTABLE",
        limits: Limits | None = None,
        workers: int = 0,
        cache: Path | None = None,
        retry_alone: bool = True,
    ) -> None:
        """Starts the workers and attacks one of them with canaries.

        Args:
          mode: ``faithful`` (a real process with real descriptors) or ``lcb`` (the official evaluator's verdicts).
          tier: what must hold: ``FULL``, ``PORTABLE``, ``EXTERNAL`` or ``UNSAFE``.
          limits: what one test may use.
          workers: programs that run at a time; 0 for one a core.
          cache: folder of verdicts kept by content hash, or None.
          retry_alone: try a program that exceeds its time while others run once more, alone.

        Raises:
          SandboxUnavailable: if the tier does not hold on this machine.
          DataError: on an unknown mode or tier, or a negative number of workers.
        """
        if mode not in MODES or tier not in TIERS or workers < 0:
            raise DataError(
                f"sandbox mode {mode!r}, tier {tier!r}, workers {workers}: the mode is one of {', '.join(MODES)}, "
                f"the tier one of {', '.join(TIERS)}, workers 0 or more"
            )
        self.mode, self.tier, self.limits = mode, tier, limits or Limits()
        self._retry_alone = retry_alone
        self._offer = find_offer()
        self._slots = [_Slot() for _ in range(workers or len(os.sched_getaffinity(0)))]
        self._selector = selectors.DefaultSelector()
        self._busy = False
        self._number = 0
        try:
            for slot in self._slots:
                self._worker(slot, numpy=False, wait=False)
            check_worker(self._worker(self._slots[0], numpy=False), tier)
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_config(cls, config: SandboxConfig, cache: Path | None = None) -> Judge:
        """The judge that a run's settings ask for."""
        limits = Limits(config.cpu_seconds, config.wall_seconds, config.memory_bytes, config.output_bytes)
        return cls(config.mode, config.tier, limits, config.workers, cache)

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and whatever still runs in them."""
        for slot in self._slots:
            for worker in slot.workers.values():
                worker.close()
            slot.workers.clear()
        self._selector.close()

    def evaluate(self, tasks: Iterable[JudgeTask]) -> Iterator[JudgeResult]:
        """Judges tasks as they come.

        Takes tasks ahead of the results it gives, by a bounded number; memory does not grow with their count.

        Yields:
          One result a task, in the order of the tasks.
        """
        if self._busy:
            raise RuntimeError("this judge is evaluating already; finish or close that iteration first")
        self._busy = True
        try:
            yield from self._evaluate(iter(tasks))
        finally:
            self._abandon()
            self._busy = False

    def _evaluate(self, tasks: Iterator[JudgeTask]) -> Iterator[JudgeResult]:
        done: dict[int, JudgeResult] = {}
        ready: collections.deque[_Active] = collections.deque()
        alone: collections.deque[_Active] = collections.deque()
        taken = given = started = 0
        exhausted = False
        width = len(self._slots)

        def proceed(active: _Active, ran: Ran | None) -> None:
            nonlocal started
            try:
                active.run = active.plan.send(ran)  # type: ignore[arg-type]
            except StopIteration as stop:
                done[active.index] = stop.value
                started -= 1
            else:
                (alone if active.run.alone else ready).append(active)

        while True:
            while given in done:
                yield done.pop(given)
                given += 1
            if not exhausted and started < _STARTED_PER_WORKER * width and taken - given < _WINDOW_PER_WORKER * width:
                try:
                    task = next(tasks)
                except StopIteration:
                    exhausted = True
                else:
                    plan = judge_task(task, self.mode, self.tier, self.limits, self._retry_alone)
                    started += 1
                    proceed(_Active(taken, plan, None), None)  # type: ignore[arg-type]
                    taken += 1
                    if started < _STARTED_PER_WORKER * width:
                        continue
            self._assign(ready, alone)
            if not started and exhausted:
                if given in done:
                    continue
                return
            for active, ran in self._wait():
                proceed(active, ran)

    def _assign(self, ready: collections.deque[_Active], alone: collections.deque[_Active]) -> None:
        """Gives runs to free slots; a run that must be alone waits for all slots, and holds the others back."""
        running = [slot.running for slot in self._slots if slot.running]
        if any(item.active.run.alone for item in running):
            return
        if alone:
            if not running:
                self._start(self._slots[0], alone.popleft())
            return
        for slot in self._slots:
            if not ready:
                return
            if slot.running is None:
                self._start(slot, ready.popleft())

    def _start(self, slot: _Slot, active: _Active) -> None:
        run = active.run
        worker = self._worker(slot, run.numpy)
        self._number += 1
        now = time.monotonic()
        others = [other.running for other in self._slots if other.running]
        for other in others:
            other.overlapped = True
        slot.running = _Running(
            active,
            slot,
            worker,
            self._number,
            now + run.request.wall_seconds + _ANSWER_SECONDS,
            now + _LOOK_SECONDS,
            bool(others),
        )
        source = os.memfd_create("job", os.MFD_CLOEXEC)
        try:
            view = memoryview(run.job)
            while view:
                view = view[os.write(source, view) :]
            request = run.request._replace(number=self._number)
            worker.send(request, (source, run.grader.output_file, run.grader.result_file))
        except OSError:
            slot.running.deadline = 0.0  # the worker is gone: noticed in ``_wait``
        finally:
            os.close(source)

    def _worker(self, slot: _Slot, numpy: bool, wait: bool = True) -> Worker:
        worker = slot.workers.get(numpy)
        if worker is None:
            worker = Worker(self.tier, self._offer, ("numpy",) if numpy else ())
            slot.workers[numpy] = worker
            self._selector.register(worker, selectors.EVENT_READ, slot)
        if wait:
            worker.hello()
        return worker

    def _wait(self) -> Iterator[tuple[_Active, Ran]]:
        """Waits a moment for replies; compares what running children have finished."""
        events = self._selector.select(_LOOK_SECONDS)
        for key, _ in events:
            worker: Worker = key.fileobj  # type: ignore[assignment]
            slot: _Slot = key.data
            running = slot.running
            if running is None or running.worker is not worker:
                if running is None or worker not in slot.workers.values():
                    self._discard(slot, worker)
                continue
            reply = worker.receive()
            if reply is None:
                self._discard(slot, worker)
                reply = jobs.Reply(running.number, jobs.FAILED, 0, 0.0, 0, "the worker ended")
            slot.running = None
            yield running.active, Ran(reply, alone=not running.overlapped)
        now = time.monotonic()
        for slot in self._slots:
            running = slot.running
            if running is None:
                continue
            if now > running.deadline:
                self._discard(slot, running.worker)
                slot.running = None
                reply = jobs.Reply(running.number, jobs.FAILED, 0, 0.0, 0, "the worker did not answer")
                yield running.active, Ran(reply, alone=not running.overlapped)
            elif now > running.next_look and not running.cancelled:
                running.next_look = now + _LOOK_SECONDS
                running.active.run.grader.advance()
                if running.active.run.grader.failure is not None:
                    running.cancelled = True
                    running.worker.send(jobs.Request(jobs.CANCEL, running.number))

    def _discard(self, slot: _Slot, worker: Worker) -> None:
        self._selector.unregister(worker)
        worker.close()
        slot.workers = {numpy: other for numpy, other in slot.workers.items() if other is not worker}

    def _abandon(self) -> None:
        """Ends the children of an iteration that was left early."""
        for slot in self._slots:
            if slot.running is not None:
                self._discard(slot, slot.running.worker)
                slot.running = None
