"""How far a journal's work is, in a small file beside it, for people and for ``dreamprm status``."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamprm_jax.storage import read_json, write_json

_EVERY_SECONDS = 2.0


@dataclass
class Progress:
    """Counts of one run over a journal's units. Times are seconds since the epoch."""

    planned: int  # units in all
    done_before: int  # of them, when this run started
    done: int
    unit: str  # what a unit is, in the singular
    pid: int
    started: float
    updated: float
    failed: int = 0  # in this run
    first_failure: str = ""
    infrastructure_errors: int = 0  # within finished units, of this run
    worker_deaths: int = 0

    @property
    def rate(self) -> float:
        """Units a second in this run so far."""
        return (self.done - self.done_before) / max(self.updated - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where nothing was done yet."""
        return (self.planned - self.done) / self.rate if self.done > self.done_before else None


def progress_path(journal: Path) -> Path:
    """The file beside a journal."""
    return journal.with_suffix(".progress.json")


def read_progress(journal: Path) -> Progress | None:
    """The last account of a run over this journal, None where there is none."""
    path = progress_path(journal)
    return Progress(**read_json(path)) if path.exists() else None


class ProgressFile:
    """Writes a ``Progress`` every other second."""

    def __init__(self, journal: Path, planned: int, done: int, unit: str) -> None:
        """Begins a run's account."""
        now = time.time()
        self._path = progress_path(journal)
        self._written = 0.0
        self.progress = Progress(planned, done, done, unit, os.getpid(), now, now)
        self.update()

    def update(self, final: bool = False) -> None:
        """Writes the account, if it is time. What the disk does not take is left out: the journal tells of it."""
        now = time.time()
        if final or now - self._written >= _EVERY_SECONDS:
            self._written = self.progress.updated = now
            with contextlib.suppress(OSError, ValueError):
                write_json(self._path, asdict(self.progress))
