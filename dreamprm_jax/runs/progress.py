"""The account of a run over a journal's units: a progress bar for who watches, a small file for ``dreamprm status``."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.storage import read_json, write_json

_EVERY_SECONDS = 2.0


@dataclass
class Progress:
    """Counts of one run. Times are seconds since the epoch."""

    planned: int  # units in all
    done_before: int  # of them, when this run started
    done: int
    unit: str  # what a unit is, in the singular
    description: str
    host: str
    started: float
    updated: float
    ended: bool = False  # in order or by an error; a killed run has no end
    failed: int = 0  # in this run
    first_failure: str = ""
    worker_deaths: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # what this run's units counted: infrastructure errors, ...


def progress_path(journal: Path) -> Path:
    """The file beside a journal."""
    return journal.with_suffix(".progress.json")


def read_progress(journal: Path) -> Progress | None:
    """The last account of a run over this journal, None where there is none."""
    path = progress_path(journal)
    return Progress(**read_json(path)) if path.exists() else None


class Account:
    """Shows and writes how far a run is. A context manager around the run."""

    def __init__(self, journal: Journal, planned: int, description: str, unit: str) -> None:
        """Begins the account.

        Args:
          journal: one key a unit; its length says how many are done.
          planned: different units there are, done ones included.
          description: of the progress bar.
          unit: what one is called.
        """
        now, done = time.time(), len(journal)
        self.progress = Progress(planned, done, done, unit, description, socket.gethostname(), now, now)
        self._journal = journal
        self._path = progress_path(journal.path)
        self._written = 0.0
        self._bar: tqdm[Any] = tqdm(total=planned, initial=done, desc=description, unit=unit)
        self._write()

    def add(self, key: str, failure: str | None = None, counts: dict[str, int] | None = None) -> None:
        """Counts a unit's end."""
        if failure is not None:
            self.progress.failed += 1
            self.progress.first_failure = self.progress.first_failure or f"{key}: {failure}"
        for name, count in (counts or {}).items():
            self.progress.counts[name] = self.progress.counts.get(name, 0) + count
        self._bar.update()
        if time.time() - self._written >= _EVERY_SECONDS:
            self._write()

    def note_deaths(self, deaths: int) -> None:
        """How many workers died in this run."""
        self.progress.worker_deaths = deaths

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.ended = True
        self._write()
        self._bar.close()

    def _write(self) -> None:
        """What the disk does not take is left out: the journal tells of it."""
        self._written = self.progress.updated = time.time()
        self.progress.done = len(self._journal)
        notes = {"failed": self.progress.failed, "workers replaced": self.progress.worker_deaths}
        if any(notes.values()):
            self._bar.set_postfix({name: count for name, count in notes.items() if count}, refresh=False)
        with contextlib.suppress(OSError, ValueError):
            write_json(self._path, asdict(self.progress))
