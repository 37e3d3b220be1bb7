"""Progress of each stage of a run, read from the files in its folder.

No lock is acquired and nothing is written. The running process writes the progress files next to its journals.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamprm_jax.config import Config, freeze
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.progress import ProgressRecord, duration
from dreamprm_jax.runs.server_usage import spent
from dreamprm_jax.runs.stage_folder import DONE, STARTED
from dreamprm_jax.runs.stage_graph import stages_of
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json

_ALIVE_SECONDS = 600.0  # a process on another machine counts as running if its progress file is younger than this

State = Literal["done", "other settings", "started", "pending"]


@dataclass(frozen=True)
class StageStatus:
    """Status of one stage.

    Attributes:
      name: Name of the stage.
      state: "done": finished for the settings in the run's config.json; "other settings": finished for other settings;
        "started": not finished; "pending": not started.
      counts: Counts of a finished stage.
      seconds: Duration of the last run of a finished stage, otherwise None.
      work: Progress records of the latest run.
      spent: Usage of the policy's server.
    """

    name: str
    state: State
    counts: dict[str, int]
    seconds: float | None
    work: tuple[ProgressRecord, ...]
    spent: dict[str, int]


def run_status(root: Path) -> list[StageStatus]:
    """The status of every stage of a run. A run on given step labels (``train --steps``) has only the train stage.

    Raises:
      DataError: if ``root`` is not the folder of a run.
    """
    if not (root / "config.json").exists():
        raise DataError(f"{root}: not the folder of a run (no config.json); pass the run's --workdir")
    config = freeze(read_json(root / "config.json"))
    return [_stage(config, root, name) for name in stages_of(config)]


def owner(root: Path) -> int | None:
    """Id of the process on this machine that holds the run's lock, from /proc/locks.

    Returns None if there is no such process, and 0 if it runs in another PID namespace.
    """
    try:
        lock = (root / ".lock").stat()
        held = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in (line.split() for line in held):
        if "FLOCK" in fields and fields[-3].endswith(f":{lock.st_ino}"):
            return max(0, int(fields[-4]))
    return None


def _stage(config: Config, root: Path, name: str) -> StageStatus:
    folder = root / name
    marker = read_json(folder / DONE) if (folder / DONE).exists() else {}
    state: State = "started" if (folder / STARTED).exists() else "pending"
    if marker:
        state = "done" if marker["fingerprint"] == fingerprint(config, name, root) else "other settings"
    files = [*folder.glob("*.progress.json"), *folder.glob("*/*.progress.json")]  # training writes one for each arm
    work = sorted((ProgressRecord(**read_json(path)) for path in files), key=lambda one: one.started)
    return StageStatus(name, state, marker.get("counts", {}), marker.get("seconds"), tuple(work), spent(folder))


def format_status(root: Path) -> str:
    """The output of ``dreamprm status``."""
    stages = run_status(root)
    pid = owner(root)
    lines = [
        f"{root}: "
        + ("no process on this machine is working on it" if pid is None else f"process {pid} is working on it")
    ]
    if len(stages) == 1:
        lines.append("trained on given step labels (dreamprm train --steps): there are no other stages")
    for stage in stages:
        counts = ", ".join(f"{value} {key}" for key, value in stage.counts.items())
        took = "" if stage.seconds is None else f"{duration(stage.seconds):>7}  "
        state = "done for other settings" if stage.state == "other settings" else stage.state
        lines.append(f"{stage.name:<10} {state:<8} {took}{counts}".rstrip())
        for record in stage.work:
            lines += [f"  {line}" for line in _lines(record, pid is not None)]
        if stage.spent and stage.state == "started":
            lines.append("  asked of the server: " + ", ".join(f"{n} {name}" for name, n in stage.spent.items()))
    return "\n".join(lines)


def _lines(record: ProgressRecord, owned: bool) -> list[str]:  # owned: whether a process on this machine holds the lock
    share = f" ({100 * record.done / record.planned:.1f} %)" if record.planned else ""
    line = f"{record.description}: {record.done} of {record.planned} {record.unit}s{share}"
    left, age = record.planned - record.done, time.time() - record.updated
    new, seconds = record.done - record.done_before, record.updated - record.started
    on_this_host = record.host == socket.gethostname()
    if left > 0 and not record.ended and (owned if on_this_host else age < _ALIVE_SECONDS):
        rate = new / seconds if new > 0 and seconds > 0 else None
        line += f", {rate:.3g} a second, {duration(left / rate)} left" if rate else ", just begun"
        line += f", as of {duration(age)} ago"
    elif left > 0:
        line += f", stopped {duration(age)} ago; run the same command again to continue"
    lines = [line + (f", {record.notes}" if record.notes else "")]
    notes = {**record.counts, "worker processes replaced": record.worker_deaths}
    shown = ", ".join(f"{count} {name}" for name, count in notes.items() if count)
    if shown:
        lines.append(f"  latest run: {shown}")
    if record.failed and left > 0:
        lines.append(f"  failed in the latest run: {record.failed}, first {record.first_failure}")
    return lines
