"""What the engine costs: 100,000 units of no work through driver, workers and journal, on this machine and on Ray.

    python benchmarks/engine.py [--units=100000] [--workers=2] [--executors local ray] [--kills]

Cost: under a minute locally, some minutes with Ray (pip install 'dreamprm-jax[ray]'). The first table has the overhead
of a unit (wall time; CPU time of the driver and, locally, of the workers) and the driver's memory when a tenth, half
and all of the units are committed. The second has the journal alone. ``--kills`` adds what one SIGKILL of one worker
does to the pools of other libraries that run the same units.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib.util
import os
import resource
import signal
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamprm_jax.config import EngineConfig
from dreamprm_jax.engine.executors.local import LocalExecutor
from dreamprm_jax.engine.executors.protocol import UnitResult
from dreamprm_jax.engine.run import make_executor, run_units
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.key_index import KeyIndex
from dreamprm_jax.schema import content_hash
from dreamprm_jax.tables import text_table

TALLIES = [1, *[[4, 3, 1, 0, 0, 0, 0, 0, 4, 1234567]] * 5]  # what the label stage commits for a program of six steps


class NoWork:
    """Notes that it was called, waits, answers."""

    def __init__(self, seconds: float, log: Path | None) -> None:
        self.seconds, self.log = seconds, log

    def __call__(self, key: str, payload: Any) -> UnitResult:
        if self.log is not None:
            with open(self.log, "a") as handle:
                handle.write(f"{key} {os.getpid()}\n")
        if self.seconds:
            time.sleep(self.seconds)
        return UnitResult(TALLIES)

    def close(self) -> None:
        """Nothing to give back."""


@dataclasses.dataclass(frozen=True)
class MakeNoWork:
    """The factory."""

    seconds: float = 0.0
    log: Path | None = None  # gets a line an execution

    def __call__(self) -> NoWork:
        return NoWork(self.seconds, self.log)


def keys(count: int) -> Iterator[tuple[str, str]]:
    """Units with a payload of a small program."""
    for number in range(count):
        yield content_hash(str(number)), "def main():\n    print(sum(map(int, input().split())))\n" * 20


def megabytes() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(who: int) -> float:
    """User and system time."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def overhead(executor: str, count: int, workers: int, folder: Path) -> list[str]:
    """One line of the first table."""
    memory: list[float] = []
    marks = [count // 10, count // 2, count]

    def watched() -> Iterator[tuple[str, str]]:
        for number, unit in enumerate(keys(count), 1):
            if number == 1:
                clock["begun"] = (time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF))
            yield unit
            if number in marks:
                memory.append(megabytes())

    clock: dict[str, tuple[float, float]] = {}
    children = cpu_seconds(resource.RUSAGE_CHILDREN)
    with Journal(folder / f"{executor}.journal") as journal:
        # The clock starts when the first unit is taken, before the workers are ready: small beside 100,000 units.
        started = make_executor(EngineConfig(executor=executor, workers=workers), factory())
        run_units(watched(), started, journal, planned=count, description=executor)
        wall, driver = time.perf_counter() - clock["begun"][0], cpu_seconds(resource.RUSAGE_SELF) - clock["begun"][1]
        assert len(journal) == count
    theirs = cpu_seconds(resource.RUSAGE_CHILDREN) - children
    return [
        executor,
        *(f"{1e6 * seconds / count:.0f}" for seconds in (wall, driver)),
        f"{1e6 * theirs / count:.0f}" if executor == "local" else "-",
        *(f"{size:.0f}" for size in memory),
    ]


def factory(seconds: float = 0.0, log: Path | None = None) -> Any:
    """A factory that workers can import (they cannot import __main__)."""
    from engine import MakeNoWork as Importable

    return Importable(seconds, log)


def journal_alone(count: int, folder: Path) -> list[list[str]]:
    """The second table."""
    path = folder / "alone.journal"
    names = [content_hash(str(number)) for number in range(count)]
    with Journal(path) as journal:
        begun = time.perf_counter()
        for name in names:
            journal.put(name, TALLIES)
        put = time.perf_counter() - begun
    begun = time.perf_counter()
    with Journal(path) as journal:
        load = time.perf_counter() - begun
        begun = time.perf_counter()
        for name in names:
            journal.get(name)
        get = time.perf_counter() - begun
    tracemalloc.start()
    index = KeyIndex()
    for number, name in enumerate(names):
        index.add(name, 600 * number, 600)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return [
        ["bytes a unit on disk", f"{path.stat().st_size / count:.0f}"],
        ["bytes a unit in memory", f"{held / count:.0f}"],
        ["microseconds to commit a unit", f"{1e6 * put / count:.1f}"],
        ["microseconds to read a unit", f"{1e6 * get / count:.1f}"],
        [f"seconds to open it with {count} units", f"{load:.2f}"],
    ]


def one_unit(seconds: float, log: Path, key: str) -> str:
    """What other pools run."""
    NoWork(seconds, log)(key, None)
    return key


def after_a_kill(pool: str, folder: Path, count: int = 400, seconds: float = 0.01) -> list[str]:
    """Units that came back, and executions, where one of two workers gets SIGKILL in the middle."""
    log, came = folder / f"{pool}.log", 0
    log.touch()

    def kill() -> None:
        while len(lines := log.read_text().splitlines()) < count // 2:
            time.sleep(0.005)
        os.kill(int(lines[-1].split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    error = "-"
    if pool == "dreamprm_jax":
        with Journal(folder / "kill.journal") as journal:
            units = [(f"{number}", None) for number in range(count)]
            run_units(units, LocalExecutor(factory(seconds, log), 2, 1), journal, planned=count, description=pool)
            came = len(journal)
    else:
        from engine import one_unit as importable

        if pool == "loky":
            from joblib.externals.loky import ProcessPoolExecutor as Executor
        else:
            Executor = concurrent.futures.ProcessPoolExecutor  # type: ignore[misc,assignment]
        with Executor(2) as executor:
            call = functools.partial(importable, seconds, log)
            for future in [executor.submit(call, f"{number}") for number in range(count)]:
                try:
                    future.result()
                    came += 1
                except Exception as caught:
                    error = type(caught).__name__
    killer.join()
    return [pool, str(count), str(came), str(len(log.read_text().splitlines())), error]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executors", nargs="*", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--kills", action="store_true")
    options = parser.parse_args()
    executors = list(options.executors)
    if "ray" in executors and importlib.util.find_spec("ray") is None:
        print("ray is not installed: left out")
        executors.remove("ray")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [overhead(executor, options.units, options.workers, folder) for executor in executors]
        marks = [f"MB at {share}" for share in (options.units // 10, options.units // 2, options.units)]
        header = ["executor", "wall us a unit", "driver CPU us", "workers CPU us", *marks]
        alone = journal_alone(options.units, folder)
        kills = [after_a_kill(p, folder) for p in ("dreamprm_jax", "concurrent.futures", "loky") if options.kills]
    print(f"\n{options.units} units of no work, {options.workers} workers\n\n{text_table(header, rows)}")
    print("\njournal\n\n" + text_table(["", "figure"], alone))
    if kills:
        titles = ["pool", "units", "came back", "executions", "error of the others"]
        print("\none of two workers killed half-way\n\n" + text_table(titles, kills))


if __name__ == "__main__":
    main()
