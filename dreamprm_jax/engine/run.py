"""Maps work units over worker processes into a journal: kill anything at any moment, run again, same result.

Units are done at least once and committed once: the journal belongs to the driver alone, the first value of a unit
wins, and a unit's value depends on the unit alone. What is finished is never done again; what a kill costs are the
units in flight, at most ``workers * (threads + 1)``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.protocol import Executor, WorkFactory
from dreamprm_jax.engine.journal import Journal
from dreamprm_jax.engine.progress import ProgressFile
from dreamprm_jax.engine.schedule import Ended, Schedule
from dreamprm_jax.engine.stop import StopRequest
from dreamprm_jax.schema import DataError

_LOOK_SECONDS = 0.5  # how soon SIGTERM is seen while nothing else happens


@dataclass(frozen=True)
class Summary:
    """What a run over the units came to."""

    done: int  # units in the journal now
    fresh: int  # of them, by this run
    worker_deaths: int


def make_executor(settings: EngineConfig, factory: WorkFactory, threads: int = 1) -> Executor:
    """The executor that the settings name. Starts no worker yet.

    Args:
      settings: executor, workers, threads, address.
      factory: called once in each worker.
      threads: units at a time in a worker, where the settings leave it open.

    Raises:
      DataError: when ray is asked for and not installed, or a number is negative.
    """
    if settings.workers < 0 or settings.threads < 0:
        raise DataError(f"engine.workers {settings.workers}, engine.threads {settings.threads}: 0 or more expected")
    if settings.executor == "ray":
        from dreamprm_jax.engine.executors.on_ray import RayExecutor

        return RayExecutor(factory, settings.workers, settings.threads or threads, settings.address)
    from dreamprm_jax.engine.executors.local import LocalExecutor

    return LocalExecutor(factory, settings.workers, settings.threads or threads)


def run_units(
    units: Iterable[tuple[str, Any]],
    executor: Executor,
    journal: Journal,
    *,
    planned: int,
    description: str,
    unit: str = "unit",
    grace_seconds: float = 20.0,
    objection: Callable[[str, Any], str | None] | None = None,
    infrastructure_errors: Callable[[Any], int] | None = None,
) -> Summary:
    """Does all units that the journal does not have.

    Args:
      units: (key, payload); consumed as workers get free, so that payloads may be read from disk meanwhile. A key that
        comes twice is done once.
      executor: not started; it is closed when this returns or raises.
      journal: where values are committed.
      planned: how many different units there are, done ones included; for progress.
      description: of the progress bar.
      unit: what one is called there.
      grace_seconds: how long after SIGTERM units in flight may take to finish; what has not is dropped.
      objection: why a unit's value is not to be committed, or None; with one the unit counts as failed.
      infrastructure_errors: how many a unit's value counts, for progress.

    Raises:
      DataError: with the number of units that failed and the first of them, after all others were done; where workers
        cannot be started; when the disk is full. In each case what was finished is kept.
      SystemExit: 143, after SIGTERM.
    """
    missing = ((key, payload) for key, payload in units if key not in journal)
    first = next(missing, None)
    account = _Account(journal, planned, description, unit)
    stopped = finished = False
    deaths = dropped = 0
    try:
        if first is not None:
            with StopRequest(grace_seconds) as stop:
                schedule = Schedule(executor)
                waiting = itertools.chain([first], (item for item in missing if item[0] not in schedule))
                exhausted = False
                while not stop.overdue:
                    while not exhausted and not stop.requested and schedule.has_room():
                        item = next(waiting, None)
                        if item is None:
                            exhausted = True
                        else:
                            schedule.hand(*item)
                    if (exhausted or stop.requested) and not schedule.in_flight:
                        break
                    for ended in schedule.wait(_LOOK_SECONDS):
                        failure = ended.value
                        if ended.kind == "done":
                            failure = objection(ended.key, ended.value) if objection else None
                            if failure is None:
                                journal.put(ended.key, ended.value)
                        account.add(ended, failure, infrastructure_errors)
                    account.show(schedule.deaths)
                stopped, dropped, deaths = stop.requested, schedule.in_flight, schedule.deaths
        finished = dropped == 0
    finally:
        account.close()
        executor.close(finished)
    if stopped:
        print(
            f"stopped with {len(journal)} of {planned} done, {dropped} in flight dropped; run the same command again "
            "to go on",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(143)
    failures = account.progress.failed
    if failures:
        raise DataError(
            f"{failures} {unit}(s) failed, first {account.progress.first_failure}; the others are kept: run the same "
            "command again to do the failed ones alone"
        )
    return Summary(len(journal), account.fresh, deaths)


class _Account:
    """The progress bar and the progress file."""

    def __init__(self, journal: Journal, planned: int, description: str, unit: str) -> None:
        done = len(journal)
        self._journal, self._done_before = journal, done
        self._file = ProgressFile(journal.path, planned, done, unit)
        self.progress = self._file.progress
        self._bar = tqdm(total=planned, initial=done, desc=description, unit=unit)

    @property
    def fresh(self) -> int:
        """Units that this run has done."""
        return len(self._journal) - self._done_before

    def add(self, ended: Ended, failure: str | None, infrastructure_errors: Callable[[Any], int] | None) -> None:
        """Counts a unit's end."""
        if failure is not None:
            self.progress.failed += 1
            self.progress.first_failure = self.progress.first_failure or f"{ended.key}: {failure}"
        if ended.kind == "done" and infrastructure_errors is not None:
            self.progress.infrastructure_errors += infrastructure_errors(ended.value)
        self._bar.update()

    def show(self, deaths: int) -> None:
        """Brings the bar's notes and the file up to date."""
        notes = {"failed": self.progress.failed, "workers replaced": deaths}
        if any(notes.values()):
            self._bar.set_postfix({name: count for name, count in notes.items() if count}, refresh=False)
        self.progress.done, self.progress.worker_deaths = len(self._journal), deaths
        self._file.update()

    def close(self) -> None:
        """The last account."""
        self.progress.done = len(self._journal)
        self._bar.close()
        self._file.update(final=True)
