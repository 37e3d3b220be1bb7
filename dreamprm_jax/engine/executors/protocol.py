"""The interface between the engine and its executors.

An executor owns workers, numbered from 0. A worker is a process that calls the factory once and executes units with its
result. The executor starts workers, sends them units and reports events; ``engine.schedule`` decides which unit runs on
which worker and which units are retried after a worker's death.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from dreamprm_jax.schema import DataError


class UnitResult(NamedTuple):
    """The result of a unit.

    Attributes:
      value: Any JSON value. It must depend on the unit alone, not on the worker or the time.
      counts: Counts of this execution, which are summed and shown: tokens, infrastructure errors, ...
    """

    value: Any
    counts: dict[str, int] = {}  # noqa: RUF012  # not modified


class Work(Protocol):
    """Executes units in a worker process. If a worker has several threads, all of them call it concurrently."""

    def __call__(self, key: str, payload: Any) -> UnitResult:
        """Executes one unit.

        Raises:
          DataError: if no unit can be executed with these settings; the run ends.
          Exception: for any other error; the unit is reported as failed at the end, and retried by the next run.
        """

    def close(self) -> None:
        """Releases processes, connections and files."""


# Created in the driver and called in each worker: it must be picklable and hold settings and paths, not open files.
WorkFactory = Callable[[], Work]


class Event(NamedTuple):
    """An event of a worker or of one of its units."""

    worker: int
    kind: Literal["ready", "done", "failed", "died", "broken"]  # broken: no unit can be executed
    key: str = ""  # done, failed
    value: Any = None  # done: the UnitResult; failed, broken: the error; died: the exit status or signal


class Executor(Protocol):
    """Owns workers and communicates with them.

    Attributes:
      size: Number of workers.
      threads: Number of units that a worker runs concurrently. Units start in the order in which they were sent.
      suspects: Maximum number of a dead worker's units, oldest first, that may have been running when it died.
    """

    size: int
    threads: int
    suspects: int

    def start(self, worker: int) -> None:
        """Starts or restarts a worker; a ``ready`` event follows, or ``broken`` if the factory fails."""

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Sends a unit to a ready worker."""

    def wait(self, seconds: float) -> list[Event]:
        """Waits up to ``seconds`` for events."""

    def close(self, finished: bool) -> None:
        """Stops all workers: gracefully if all work is ``finished``, otherwise immediately."""


def pack(factory: WorkFactory) -> bytes:
    """Pickles a factory for the workers.

    Raises:
      DataError: if it cannot be pickled, or is defined in the main script, which workers do not import.
    """
    if getattr(factory, "__module__", "") == "__main__":
        raise DataError(
            f"the work factory {factory!r} is defined in the main script; move it to a module that workers can import"
        )
    try:
        return pickle.dumps(factory)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(f"the work factory {factory!r} cannot be sent to a worker process: {error}") from error


def do_unit(work: Work, key: str, payload: Any) -> tuple[str, Any]:
    """Executes a unit. Returns the kind and the value of its event."""
    try:
        return "done", tuple(work(key, payload))
    except DataError as error:
        return "broken", str(error)
    except Exception as error:
        return "failed", describe(error)


def describe(error: BaseException) -> str:
    """An error as one line. Errors whose message is not written for users get their type, file and line."""
    if isinstance(error, DataError) or type(error).__name__ == "PolicyError":
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
