"""Work for tests of the engine: every execution appends a line to a log; some units kill their worker."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.protocol import UnitResult
from dreamprm_jax.engine.run import Summary, make_executor, run_units
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.schema import DataError


@dataclasses.dataclass(frozen=True)
class Squares:
    """A factory of work that squares numbers."""

    log: Path  # one line per execution: unit and process id
    seconds: float = 0.0
    poison: tuple[str, ...] = ()  # units that kill their worker
    wrong: tuple[str, ...] = ()  # units that raise
    hopeless: tuple[str, ...] = ()  # units that raise a DataError, which ends the run
    pad: int = 0  # bytes of padding in a unit's value
    together: int = 1  # processes that must have started a unit before any finishes one

    def __call__(self) -> SquaresWork:
        with open(self.log, "a") as handle:
            handle.write(f"+ {os.getpid()}\n")
        return SquaresWork(self)


@dataclasses.dataclass
class SquaresWork:
    settings: Squares

    def __call__(self, key: str, payload: Any) -> UnitResult:
        with open(self.settings.log, "a") as handle:  # a short line is appended atomically
            handle.write(f"{key} {os.getpid()}\n")
        if key in self.settings.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if key in self.settings.wrong:
            raise ValueError(f"unit {key} is wrong")
        if key in self.settings.hopeless:
            raise DataError("the server does not know the model")
        deadline = time.monotonic() + 300
        while self.settings.together > len(workers(self.settings.log)):
            if time.monotonic() > deadline:
                raise TimeoutError("the other processes did not start")
            time.sleep(0.05)
        time.sleep(self.settings.seconds)
        return UnitResult([payload * payload, "x" * self.settings.pad], {"done": 1})

    def close(self) -> None:
        with open(self.settings.log, "a") as handle:
            handle.write(f"- {os.getpid()}\n")


@dataclasses.dataclass(frozen=True)
class Broken:
    """A factory that fails."""

    kill: bool = False

    def __call__(self) -> Any:
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no such server")


def units(count: int) -> list[tuple[str, int]]:
    return [(f"unit{i}", i) for i in range(count)]


def executions(log: Path) -> dict[str, int]:
    """Number of executions of each unit."""
    counts: dict[str, int] = {}
    for line in log.read_text().splitlines():
        key = line.split()[0]
        if key not in "+-":
            counts[key] = counts.get(key, 0) + 1
    return counts


def workers(log: Path) -> set[int]:
    """The processes that have started units."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return {int(pid) for key, pid in lines if key not in "+-"}


def values(journal: Path) -> dict[str, Any]:
    """Every unit and its value."""
    with Journal(journal) as opened:  # this removes an incomplete line
        pairs = dict(json.loads(line[9:]) for line in journal.read_bytes().splitlines())
        assert len(pairs) == len(opened)
    return pairs


def drive(folder: Path, count: int, factory: Any, **settings: Any) -> Summary:
    """Runs the units in a journal of ``folder``."""
    engine = EngineConfig(**settings)
    with Journal(folder / "toy.journal") as journal:
        return run_units(
            units(count),
            make_executor(engine, factory),
            journal,
            planned=count,
            description="toy",
            grace_seconds=engine.grace_seconds,
        )


if __name__ == "__main__":  # a driver process that the tests kill
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    seconds, count = options.pop("seconds"), options.pop("count")
    from engine_toy import Squares as Importable  # the workers cannot import __main__

    print(drive(folder, count, Importable(folder / "log", seconds), **options))
