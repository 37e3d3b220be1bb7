"""Maps work units over worker processes into a journal: kill anything at any moment, run again, same result.

Units are done at least once and committed once: the journal belongs to the driver alone, the first value of a unit
wins, and a unit's value depends on the unit alone. What is finished is never done again; what a kill costs are the
units in flight, at most ``workers * (threads + 1)``.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.protocol import Executor, WorkFactory
from dreamprm_jax.engine.schedule import Ended, Schedule
from dreamprm_jax.engine.stop import StopRequest
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError

_LOOK_SECONDS = 0.5  # how soon SIGTERM is seen while nothing else happens


@dataclass(frozen=True)
class Summary:
    """What a run over the units came to."""

    fresh: int  # units that this run added to the journal
    worker_deaths: int
    counts: dict[str, int]  # what the units of this run counted


def check_settings(settings: EngineConfig) -> None:
    """What can be said of the settings before there is work.

    Raises:
      DataError: when ray is asked for and not installed, or a number is negative.
    """
    if settings.workers < 0 or settings.threads < 0:
        raise DataError(f"engine.workers {settings.workers}, engine.threads {settings.threads}: 0 or more expected")
    if settings.executor == "ray" and importlib.util.find_spec("ray") is None:
        raise DataError(
            "engine.executor is 'ray', and Ray is not installed: pip install 'dreamprm-jax[ray]', or set "
            "engine.executor='local'"
        )


def make_executor(settings: EngineConfig, factory: WorkFactory, threads: int = 1) -> Executor:
    """The executor that the settings name. Starts no worker yet.

    Args:
      settings: executor, workers, threads, address.
      factory: called once in each worker.
      threads: units at a time in a worker, where the settings leave it open.

    Raises:
      DataError: as ``check_settings``, and where no cluster answers.
    """
    check_settings(settings)
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
    done: int = 0,
    description: str,
    unit: str = "unit",
    grace_seconds: float = 20.0,
    objection: Callable[[str, Any], str | None] | None = None,
) -> Summary:
    """Does all units that the journal does not have.

    Args:
      units: (key, payload); consumed as workers get free, so that payloads may be read from disk meanwhile. A key that
        comes twice is done once.
      executor: not started; it is closed when this returns or raises.
      journal: where values are committed.
      planned: how many different units there are, done ones included; for progress.
      done: how many of them the journal has.
      description: of the progress bar.
      unit: what one is called there.
      grace_seconds: how long after a signal to stop units in flight may take to finish; what has not is done again.
      objection: why a unit's value is not to be committed, or None; with one the unit counts as failed.

    Raises:
      DataError: with the number of units that failed and the first of them, after all others were done; where workers
        cannot be started; when the disk is full. In each case what was finished is kept.
      SystemExit: after SIGTERM (143) or Ctrl-C (130).
    """
    missing = ((key, payload) for key, payload in units if key not in journal)
    first = next(missing, None)
    before = len(journal)
    with Progress(description, planned, unit, done, journal.path) as progress:
        if first is None:
            return Summary(0, 0, {})
        in_flight: int | None = None
        try:
            with StopRequest(grace_seconds) as stop:
                schedule = Schedule(executor)
                fresh = itertools.chain([first], (item for item in missing if item[0] not in schedule))
                exhausted = False
                while not stop.overdue:
                    while not (exhausted or stop.requested) and schedule.has_room():
                        item = next(fresh, None)
                        if item is None:
                            exhausted = True
                        else:
                            schedule.hand(*item)
                    if (exhausted or stop.requested) and not schedule.in_flight:
                        break
                    for ended in schedule.wait(_LOOK_SECONDS):
                        _commit(ended, journal, progress, objection)
                    progress.note_deaths(schedule.deaths)
                in_flight = schedule.in_flight
        finally:
            executor.close(finished=in_flight == 0)
    if stop.requested:
        print(
            f"stopped with {progress.record.done} of {planned} done, {in_flight} in flight dropped; run the same "
            "command again to continue",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(stop.exit_status)
    record = progress.record
    if record.failed:
        raise DataError(
            f"{record.failed} {unit}(s) failed, first {record.first_failure}; the others are kept: run the same "
            "command again to do the failed ones alone"
        )
    return Summary(len(journal) - before, schedule.deaths, record.counts)


def _commit(
    ended: Ended, journal: Journal, progress: Progress, objection: Callable[[str, Any], str | None] | None
) -> None:
    if ended.kind == "failed":
        progress.add(ended.key, failure=ended.value)
        return
    value, counts = ended.value
    failure = objection(ended.key, value) if objection else None
    if failure is None:
        journal.put(ended.key, value)
    progress.add(ended.key, failure, counts)
