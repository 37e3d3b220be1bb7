"""Maps work units over worker processes and commits their values to a journal; a killed run can be resumed.

Units are executed at least once and committed once. Only the driver writes the journal, the first value of a unit wins,
and a unit's value depends on the unit alone. Committed units are never repeated. A kill loses only the units in flight,
which are at most ``workers * (threads + 1)``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.protocol import Executor, WorkFactory
from dreamprm_jax.engine.schedule import FinishedUnit, Schedule
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.runs.stop_signals import StopRequest
from dreamprm_jax.schema import DataError

_POLL_SECONDS = 0.5  # interval at which SIGTERM is noticed if the workers report nothing


@dataclass(frozen=True)
class Summary:
    """Summary of a run over units."""

    new: int  # number of units that this run added to the journal
    worker_deaths: int
    counts: dict[str, int]  # sums of the counts of this run's units


def make_executor(settings: EngineConfig, factory: WorkFactory, threads: int = 1) -> Executor:
    """Creates the executor that the settings select. No worker is started yet.

    Args:
      settings: Executor, workers, threads, address.
      factory: Called once in each worker.
      threads: Concurrent units in a worker if ``settings.threads`` is 0.

    Raises:
      DataError: if a number is negative, the factory cannot be sent, or Ray or its cluster is not available.
    """
    if settings.workers < 0 or settings.threads < 0:
        raise DataError(f"engine.workers {settings.workers}, engine.threads {settings.threads}: must be at least 0")
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
    find_error: Callable[[str, Any], str | None] | None = None,
) -> Summary:
    """Executes all units that are not in the journal.

    Args:
      units: (key, payload) pairs, consumed lazily as workers become free. A repeated key is executed once.
      executor: An executor without started workers; it is closed when this function returns or raises.
      journal: Journal to which values are committed.
      planned: Number of distinct units, including finished ones; for the progress bar.
      done: Number of units that the journal contains.
      description: Description of the progress bar.
      unit: Noun for one unit, in the singular.
      grace_seconds: Time that units in flight may take after a stop signal; unfinished ones are repeated by the next
        run.
      find_error: Maps (key, value) to an error message, or to None for a valid value. A unit with an error counts as
        failed, and its value is not committed.

    Raises:
      DataError: if units failed (raised after all others were executed, with the number of failures and the first
        one), if workers cannot be started, or if the disk is full. Committed units are always kept.
      SystemExit: after SIGTERM (143) or Ctrl-C (130).
    """
    missing = ((key, payload) for key, payload in units if key not in journal)
    first = next(missing, None)
    before = len(journal)
    waiting = f"no new work; waiting up to {grace_seconds:g} s for work in flight"
    with StopRequest(waiting, grace_seconds) as stop:
        with Progress(description, planned, unit, done, journal.path) as progress:
            if first is None:
                return Summary(0, 0, {})
            in_flight: int | None = None
            try:
                schedule = Schedule(executor)
                new = itertools.chain([first], (item for item in missing if item[0] not in schedule))
                exhausted = False
                while not stop.overdue:
                    while not (exhausted or stop.requested) and schedule.has_room():
                        item = next(new, None)
                        if item is None:
                            exhausted = True
                        else:
                            schedule.assign(*item)
                    if (exhausted or stop.requested) and not schedule.in_flight:
                        break
                    for finished in schedule.wait(_POLL_SECONDS):
                        _commit(finished, journal, progress, find_error)
                    progress.record.worker_deaths = schedule.deaths
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
            "command again to repeat only the failed ones"
        )
    return Summary(len(journal) - before, schedule.deaths, record.counts)


def _commit(
    finished: FinishedUnit, journal: Journal, progress: Progress, find_error: Callable[[str, Any], str | None] | None
) -> None:
    if finished.kind == "failed":
        progress.add(finished.key, failure=finished.value)
        return
    value, counts = finished.value
    failure = find_error(finished.key, value) if find_error else None
    if failure is None:
        journal.put(finished.key, value)
    progress.add(finished.key, failure, counts)
