"""How far a run is, stage by stage, read from its folder without disturbing whoever works in it.

No lock is taken and nothing is written: units are counted in the journals, the rest stands in the small files that the
driver leaves beside them.
"""

from __future__ import annotations

import argparse
import datetime
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamprm_jax.runs.paths import DONE, STARTED
from dreamprm_jax.runs.progress import Progress, read_progress
from dreamprm_jax.runs.server_usage import spent
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json

_ALIVE_SECONDS = 600.0  # a driver on another machine whose journal grew within this time is believed to go on


@dataclass(frozen=True)
class UnitStatus:
    """One journal."""

    name: str
    done: int
    progress: Progress  # what its latest run left
    age: float  # seconds since the journal last grew

    @property
    def rate(self) -> float | None:
        """Units a second of the latest run, until its last unit."""
        fresh = self.done - self.progress.done_before
        seconds = time.time() - self.age - self.progress.started
        return fresh / seconds if fresh > 0 and seconds > 0 else None


@dataclass(frozen=True)
class StageStatus:
    """One stage."""

    name: str
    state: Literal["done", "started", "pending"]
    counts: dict[str, int]  # of a stage that is done
    units: tuple[UnitStatus, ...]
    spent: dict[str, int]  # what a policy's server was asked for


def run_status(root: Path) -> list[StageStatus]:
    """The state of every stage of a run.

    Raises:
      DataError: where the folder is not that of a run.
    """
    if not (root / "config.json").exists():
        raise DataError(f"{root}: no run there (no config.json); name the folder that --workdir named")
    return [_stage(name, root / name) for name in STAGES]


def owner(root: Path) -> int | None:
    """The process on this machine that works in the folder, from the kernel's list of locks; 0 if it is not visible."""
    try:
        lock = (root / ".lock").stat()
        held = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in (line.split() for line in held):
        if "FLOCK" in fields and fields[-3].endswith(f":{lock.st_ino}"):
            return max(0, int(fields[-4]))
    return None


def _stage(name: str, folder: Path) -> StageStatus:
    done = folder / DONE
    counts = read_json(done)["counts"] if done.exists() else {}
    state: Literal["done", "started", "pending"] = "pending"
    if done.exists():
        state = "done"
    elif (folder / STARTED).exists():
        state = "started"
    accounts = [(journal, read_progress(journal)) for journal in sorted(folder.glob("*.journal"))]
    units = [_units(journal, progress) for journal, progress in accounts if progress is not None]
    return StageStatus(name, state, counts, tuple(sorted(units, key=lambda one: one.progress.started)), spent(folder))


def _units(journal: Path, progress: Progress) -> UnitStatus:
    done = 0
    with open(journal, "rb") as handle:
        while block := handle.read(1 << 20):
            done += block.count(b"\n")
    return UnitStatus(journal.stem, done, progress, time.time() - journal.stat().st_mtime)


def format_status(root: Path) -> str:
    """The text of ``dreamprm status``."""
    stages = run_status(root)
    pid = owner(root)
    lines = [f"{root}: " + ("no process works on it here" if pid is None else f"process {pid} works on it")]
    for stage in stages:
        counts = ", ".join(f"{value} {key}" for key, value in stage.counts.items())
        lines.append(f"{stage.name:<10} {stage.state:<8} {counts}".rstrip())
        for units in stage.units:
            lines += [f"  {line}" for line in _unit_lines(units, pid is not None)]
        if stage.spent and stage.state == "started":
            lines.append("  asked of the server: " + ", ".join(f"{n} {name}" for name, n in stage.spent.items()))
    return "\n".join(lines)


def _unit_lines(units: UnitStatus, owned: bool) -> list[str]:
    progress = units.progress
    share = f" ({100 * units.done / progress.planned:.1f} %)" if progress.planned else ""
    line = f"{progress.description}: {units.done} of {progress.planned} {progress.unit}s{share}"
    left = progress.planned - units.done
    here = progress.host == socket.gethostname()
    if left > 0 and not progress.ended and (owned if here else units.age < _ALIVE_SECONDS):
        time_left = f"{units.rate:.3g} a second, {_duration(left / units.rate)} left" if units.rate else "just begun"
        line += f", {time_left}, the last {_duration(units.age)} ago"
    elif left > 0:
        line += f", the last {_duration(units.age)} ago; run the same command again to go on"
    lines = [line]
    notes = {**progress.counts, "worker processes replaced": progress.worker_deaths}
    shown = ", ".join(f"{count} {name}" for name, count in notes.items() if count)
    if shown:
        lines.append(f"  latest run: {shown}")
    if progress.failed and left > 0:
        lines.append(f"  failed in the latest run: {progress.failed}, first {progress.first_failure}")
    return lines


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def main(arguments: list[str]) -> int:
    """``dreamprm status``."""
    parser = argparse.ArgumentParser(
        prog="dreamprm status",
        description="Says how far a run is: stages, units of work, rate and time left, errors. It may be asked while "
        "the run goes on, from anywhere that sees the folder.",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    print(format_status(Path(parser.parse_args(arguments).workdir)))
    return 0
