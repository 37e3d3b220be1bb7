"""The judge takes tasks and yields results in their order. It owns a pool of workers and drives the tasks' plans."""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox.cache import VerdictCache, task_digest
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.sandbox.inside.jobs import Reply
from dreamprm_jax.sandbox.plan import Plan, Run, judge_task
from dreamprm_jax.sandbox.pool import Pool
from dreamprm_jax.sandbox.probe import check_worker
from dreamprm_jax.sandbox.records import MODES, TIERS, JudgeResult, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES
from dreamprm_jax.schema import DataError

_STARTED_PER_WORKER = 4  # tasks started at a time
_WINDOW_PER_WORKER = 256  # results that wait for an earlier one


@dataclass(frozen=True)
class _Started:
    """A task that has been started."""

    index: int
    plan: Plan
    digest: str  # "" if the result must not be cached


_Item = tuple[_Started, Run]


class _Queue:
    """The runs to start. Retries start when nothing else is left to start, and delay new tasks until they end."""

    def __init__(self) -> None:
        self.retrying = False
        self._ready: collections.deque[_Item] = collections.deque()
        self._pausing: list[tuple[float, int, _Item]] = []  # a heap, by the time at which the pause ends
        self._count = itertools.count()
        self._share: collections.deque[_Item] = collections.deque()
        self._alone: collections.deque[_Item] = collections.deque()

    def add(self, task: _Started, run: Run) -> None:
        """Adds a run."""
        if run.turn == "share":
            self._share.append((task, run))
        elif run.turn == "alone":
            self._alone.append((task, run))
        elif run.pause_seconds:
            heapq.heappush(self._pausing, (time.monotonic() + run.pause_seconds, next(self._count), (task, run)))
        else:
            self._ready.append((task, run))

    def begun(self) -> int:
        """Number of runs that wait for a worker, without retries."""
        return len(self._ready) + len(self._pausing)

    def empty(self) -> bool:
        """Whether no run is left to start."""
        return not (self._ready or self._pausing or self._share or self._alone)

    def next(self, running: int, retry_width: int) -> _Item | None:
        """The run to start now, or None; at most ``retry_width`` retries run at the same time."""
        while self._pausing and self._pausing[0][0] <= time.monotonic():
            self._ready.append(heapq.heappop(self._pausing)[2])
        if not self.retrying:
            if self._ready:
                return self._ready.popleft()
            if self._pausing or running:
                return None
        # nothing else can be started, or the caller would have added it
        self.retrying = bool(self._share or self._alone or (self.retrying and running))
        if self._share:
            return self._share.popleft() if running < retry_width else None
        if self._alone and not running:
            return self._alone.popleft()
        return None


class Judge:
    """Runs untrusted programs and judges them. A context manager; ``close`` leaves no process behind.

    Nothing is forked from the calling process: every worker is a separate interpreter, so the caller may hold jax,
    threads or secrets. Only one ``evaluate`` may run at a time.
    """

    def __init__(
        self,
        mode: str = "faithful",
        tier: str = "PORTABLE",
        limits: Limits | None = None,
        workers: int = 0,
        cache: Path | None = None,
        retry_share: float = 0.25,
        hash_seed: int = 0,
        comparison: Comparison | None = None,
        per_test: bool = False,
        packages: Sequence[str] = OFFERED_PACKAGES,
    ) -> None:
        """Starts the workers and attacks one of them with canaries.

        Args:
          mode: ``faithful`` (a real process with real descriptors) or ``lcb`` (the official evaluator's verdicts).
          tier: Required isolation: ``FULL``, ``PORTABLE``, ``EXTERNAL`` or ``UNSAFE``.
          limits: Limits of one test.
          workers: Number of concurrent programs; 0 for one per core.
          cache: Folder of cached verdicts, or None.
          retry_share: Share of the workers (at least one worker) that at the end retry programs which exceeded their
            time while they lacked a core. 0: no such retries.
          hash_seed: PYTHONHASHSEED of the programs. It is fixed, so that the same program gets the same verdict.
            Another seed shows whether a program depends on it; verdicts with another seed are not cached.
          comparison: How answers are compared if the task has no comparison; None: as in the official evaluator.
          per_test: Report on each judged test (``JudgeResult.tests``). In mode faithful, each test then has its own
            process. This is slower, and no verdict is taken from the cache.
          packages: Import names of the third-party packages that programs may import, including their dependencies.
            Their versions are part of the cache key.

        Raises:
          SandboxUnavailable: if the tier does not hold on this machine.
          DataError: on an unknown mode or tier, a negative number of workers, a share outside [0, 1], or a package
            that is not installed.
        """
        if mode not in MODES or tier not in TIERS or workers < 0 or not 0 <= retry_share <= 1:
            raise DataError(
                f"sandbox mode {mode!r}, tier {tier!r}, workers {workers}, retry_share {retry_share}: the mode must be "
                f"one of {', '.join(MODES)}, the tier one of {', '.join(TIERS)}, workers at least 0, the share 0 to 1"
            )
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailable(f"the sandbox needs Linux, not {sys.platform}; use a container or another machine")
        self.mode, self.tier, self.limits = mode, tier, limits or Limits()
        self._retry_share, self._comparison, self._per_test = retry_share, comparison, per_test
        self._cache = VerdictCache(cache) if cache is not None and not hash_seed else None
        self._busy = False
        try:
            self._pool: Pool[_Started] = Pool(tier, workers or len(os.sched_getaffinity(0)), hash_seed, packages)
        except OSError as error:
            raise SandboxUnavailable(f"no process can be started for the sandbox: {error}") from error
        try:
            check_worker(self._pool.first_worker(), tier)
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_config(cls, config: SandboxConfig, cache: Path | None = None, per_test: bool = False) -> Judge:
        """The judge for the settings of a run."""
        limits = Limits(
            config.cpu_seconds, config.wall_seconds, config.memory_bytes, config.output_bytes, config.reference_factor
        )
        comparison = Comparison.parse(config.checker, "sandbox.checker")
        return cls(
            config.mode,
            config.tier,
            limits,
            config.workers,
            cache,
            config.retry_share,
            comparison=comparison,
            per_test=per_test,
            packages=config.packages,
        )

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and the programs that still run in them."""
        self._pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def digest(self, task: JudgeTask) -> str:
        """Hash of everything that the task's verdict depends on (see ``cache.task_digest``)."""
        task = self._completed(task)
        return task_digest(task, self.mode, self.tier, self.limits.of(task.limits), self._pool.offer.versions())

    def _completed(self, task: JudgeTask) -> JudgeTask:
        if self._per_test and not task.per_test:
            task = dataclasses.replace(task, per_test=True)
        if self._comparison is None or task.comparison is not None or task.checker is not None:
            return task
        return dataclasses.replace(task, comparison=self._comparison)

    def worker_pids(self) -> set[int]:
        """Process ids of the workers. Each leads a session that contains all processes it starts."""
        return self._pool.pids()

    def evaluate(self, tasks: Iterable[JudgeTask]) -> Iterator[JudgeResult]:
        """Judges tasks as they arrive.

        Reads a bounded number of tasks ahead of the results, so memory does not grow with their count.

        Yields:
          One result per task, in the order of the tasks.
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
        queue = _Queue()
        done: dict[int, JudgeResult] = {}
        taken = given = 0
        exhausted = False

        def proceed(task: _Started, reply: Reply | None) -> None:
            try:
                run = task.plan.send(reply)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as stop:
                done[task.index] = stop.value
                if self._cache is not None and task.digest:
                    self._cache.put(task.digest, stop.value)
            else:
                queue.add(task, run)

        while True:
            while given in done:
                yield done.pop(given)
                given += 1
            while (
                not exhausted
                and not queue.retrying
                and given not in done
                and queue.begun() + pool.running() < _STARTED_PER_WORKER * pool.width
                and taken - given < _WINDOW_PER_WORKER * pool.width
            ):
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                task = self._completed(task)
                digest, known = self._known(task)
                if known is not None:
                    done[taken] = known
                else:
                    plan = judge_task(task, self.mode, self.tier, self.limits, self._retry_share > 0)
                    proceed(_Started(taken, plan, digest), None)
                taken += 1
            if given in done:
                continue
            while pool.free() and (item := queue.next(pool.running(), self._retry_width())) is not None:
                pool.start(*item)
            if exhausted and queue.empty() and not pool.running() and not pool.failed():
                return
            for started, reply in pool.wait():
                proceed(started, reply)

    def _retry_width(self) -> int:
        return max(1, int(self._retry_share * self._pool.width))

    def _known(self, task: JudgeTask) -> tuple[str, JudgeResult | None]:
        """The task's digest ("" if it must not be cached), and the cached result or None."""
        if self._cache is None or (task.checker is not None and not task.checker_name):
            return "", None
        digest = self.digest(task)
        return digest, None if task.per_test else self._cache.get(digest, task, self.mode, self.tier)
