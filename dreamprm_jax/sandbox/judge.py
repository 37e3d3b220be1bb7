"""The judge: takes tasks, gives results in their order. It owns a pool of workers and drives the plans of the tasks."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox.cache import VerdictCache, task_digest
from dreamprm_jax.sandbox.plan import Plan, Ran, Run, judge_task
from dreamprm_jax.sandbox.pool import Pool
from dreamprm_jax.sandbox.probe import check_worker
from dreamprm_jax.sandbox.records import MODES, TIERS, JudgeResult, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.schema import DataError

_STARTED_PER_WORKER = 4  # tasks begun at a time
_WINDOW_PER_WORKER = 256  # results that wait for an earlier one


@dataclass(frozen=True)
class _Started:
    """A task that has begun."""

    index: int
    plan: Plan
    digest: str  # "" where the result is not to be cached


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
        hash_seed: int = 0,
    ) -> None:
        """Starts the workers and attacks one of them with canaries.

        Args:
          mode: ``faithful`` (a real process with real descriptors) or ``lcb`` (the official evaluator's verdicts).
          tier: what must hold: ``FULL``, ``PORTABLE``, ``EXTERNAL`` or ``UNSAFE``.
          limits: what one test may use.
          workers: programs that run at a time; 0 for one a core.
          cache: folder of verdicts kept by content hash, or None.
          retry_alone: try a program that exceeds its time while others run once more, alone.
          hash_seed: PYTHONHASHSEED of the programs; fixed, so that the same program gets the same verdict. Another one
            shows whether a program depends on it. Its verdicts are not cached.

        Raises:
          SandboxUnavailable: if the tier does not hold on this machine.
          DataError: on an unknown mode or tier, or a negative number of workers.
        """
        if mode not in MODES or tier not in TIERS or workers < 0:
            raise DataError(
                f"sandbox mode {mode!r}, tier {tier!r}, workers {workers}: the mode is one of {', '.join(MODES)}, "
                f"the tier one of {', '.join(TIERS)}, workers 0 or more"
            )
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailable(f"the sandbox needs Linux, not {sys.platform}; use a container or another machine")
        self.mode, self.tier, self.limits = mode, tier, limits or Limits()
        self._retry_alone = retry_alone
        self._cache = VerdictCache(cache) if cache is not None and not hash_seed else None
        self._busy = False
        self._pool: Pool[_Started] = Pool(tier, workers or len(os.sched_getaffinity(0)), hash_seed)
        try:
            check_worker(self._pool.first_worker(), tier)
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
        self._pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def worker_pids(self) -> set[int]:
        """Process ids of the workers. Each leads a session; all that a worker starts is in that session."""
        return self._pool.pids()

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
            self._pool.abandon()
            self._busy = False

    def _evaluate(self, tasks: Iterator[JudgeTask]) -> Iterator[JudgeResult]:
        pool = self._pool
        done: dict[int, JudgeResult] = {}
        ready: collections.deque[tuple[_Started, Run]] = collections.deque()
        alone: collections.deque[tuple[_Started, Run]] = collections.deque()
        taken = given = started = 0
        exhausted = False

        def proceed(task: _Started, ran: Ran | None) -> None:
            nonlocal started
            try:
                run = task.plan.send(ran)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as stop:
                done[task.index] = stop.value
                started -= 1
                if self._cache is not None and task.digest:
                    self._cache.put(task.digest, stop.value)
            else:
                (alone if run.alone else ready).append((task, run))

        while True:
            while given in done:
                yield done.pop(given)
                given += 1
            while (
                not exhausted
                and given not in done
                and started < _STARTED_PER_WORKER * pool.width
                and taken - given < _WINDOW_PER_WORKER * pool.width
            ):
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                digest, known = self._known(task)
                if known is not None:
                    done[taken] = known
                else:
                    started += 1
                    plan = judge_task(task, self.mode, self.tier, self.limits, self._retry_alone)
                    proceed(_Started(taken, plan, digest), None)
                taken += 1
            # a run that must be alone waits for the others to end, and holds new ones back
            while alone and not pool.running():
                pool.start(*alone.popleft())
            while ready and not alone and not pool.runs_alone() and pool.running() < pool.width:
                pool.start(*ready.popleft())
            if given in done:
                continue
            if started:
                for item, ran in pool.wait():
                    proceed(item, ran)
            elif exhausted:
                return

    def _known(self, task: JudgeTask) -> tuple[str, JudgeResult | None]:
        """The task's digest ("" where it is not to be cached) and the kept result, if there is one."""
        if self._cache is None or (task.checker is not None and not task.checker_name):
            return "", None
        digest = task_digest(task, self.mode, self.tier, self.limits)
        return digest, self._cache.get(digest, task, self.mode, self.tier)
