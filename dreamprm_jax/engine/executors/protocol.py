"""What the engine and its executors say to each other.

An executor owns workers, numbered from 0. A worker is a process that has called the factory once and does units with
what the factory gave it. The executor starts workers, sends them units and tells what happens to them; which unit goes
to which worker, and what a worker's death means for its units, is decided by ``engine.schedule``.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from dreamprm_jax.schema import DataError


class UnitResult(NamedTuple):
    """What a unit came to.

    Attributes:
      value: anything that JSON holds; the same for the same unit, whoever does it and when.
      counts: of this execution, to be summed and shown: tokens, infrastructure errors, ...
    """

    value: Any
    counts: dict[str, int] = {}  # noqa: RUF012  # never changed


class Work(Protocol):
    """Does units, in a worker process; with several threads a worker, it is called from all of them."""

    def __call__(self, key: str, payload: Any) -> UnitResult:
        """Does one unit.

        Raises:
          DataError: with these settings nothing can be done; the run ends.
          Exception: any other; the unit is reported as failed at the end of the run, and done again by the next.
        """

    def close(self) -> None:
        """Gives back processes, connections and files."""


# Made in the driver, called in each worker: it can be pickled and holds settings and paths, not open files.
WorkFactory = Callable[[], Work]


class Event(NamedTuple):
    """What happened to a worker or to a unit that it had."""

    worker: int
    kind: Literal["ready", "done", "failed", "died", "broken"]
    key: str = ""  # done, failed
    value: Any = None  # done: the UnitResult; failed and broken (no unit can be done): why; died: how


class Executor(Protocol):
    """Workers and the ways to them.

    Attributes:
      size: how many workers.
      threads: units that run at a time in a worker, in the order they were sent.
      suspects: how many of the units that a dead worker had, oldest first, may have been running when it died.
    """

    size: int
    threads: int
    suspects: int

    def start(self, worker: int) -> None:
        """Starts a worker, or starts it again after it died; ``ready`` follows, or ``broken`` if the factory fails."""

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Gives a unit to a worker that is ready."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened; waits up to ``seconds`` for something to happen."""

    def close(self, finished: bool) -> None:
        """Ends all workers: in order where all work is ``finished``, else at once."""


def pack(factory: WorkFactory) -> bytes:
    """The factory as it travels to the workers.

    Raises:
      DataError: when it cannot be pickled, or belongs to the main script, which workers do not import.
    """
    home = getattr(factory, "__module__", "")
    if home == "__main__":
        raise DataError(
            f"the work factory {factory!r} is defined in the main script; move it to a module that workers can import"
        )
    try:
        return pickle.dumps(factory)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(f"the work factory {factory!r} cannot be sent to a worker process: {error}") from error


def do_unit(work: Work, key: str, payload: Any) -> tuple[str, Any]:
    """Does a unit: the kind and the value of the event to tell."""
    try:
        return "done", tuple(work(key, payload))
    except DataError as error:
        return "broken", str(error)
    except Exception as error:
        return "failed", describe(error)


def describe(error: BaseException) -> str:
    """An error in one line. Those made for users speak for themselves; of others, where it was raised."""
    if isinstance(error, DataError) or type(error).__name__ == "PolicyError":
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
