"""Progress of counted work: a bar on a terminal, a plain line now and then elsewhere, a small file for ``status``."""

from __future__ import annotations

import contextlib
import datetime
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

from dreamprm_jax.storage import read_json, write_json

Item = TypeVar("Item")

_FILE_SECONDS = 2.0
_LINE_SECONDS = 60.0  # between two plain lines; a shorter piece of work gets the one at its end


@dataclass
class ProgressRecord:
    """What the file says. Times are seconds since the epoch."""

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
    notes: str = ""  # the latest figures, such as a loss


def progress_path(beside: Path) -> Path:
    """The progress file of a journal, or of a folder."""
    return beside.with_suffix(".progress.json")


def read_progress(beside: Path) -> ProgressRecord | None:
    """The record of the latest run over a journal or folder; None where there is none."""
    path = progress_path(beside)
    return ProgressRecord(**read_json(path)) if path.exists() else None


class Progress:
    """Shows how far counted work is. A context manager around the work."""

    def __init__(
        self,
        description: str,
        planned: int | None,
        unit: str,
        done: int = 0,
        beside: Path | None = None,
        visible: bool = True,
    ) -> None:
        """Begins the record.

        Args:
          description: of the work, such as "judge train".
          planned: different units there are, those done before included; None where that is not known.
          unit: what one is called, in the singular.
          done: how many were done before.
          beside: the journal or folder beside which the file lies; None writes no file.
          visible: False on processes that leave the console to another.
        """
        now = time.time()
        self.record = ProgressRecord(planned or 0, done, done, unit, description, socket.gethostname(), now, now)
        self._path = progress_path(beside) if beside is not None and visible else None
        self._written = 0.0
        self._lines = visible and not sys.stderr.isatty()
        self._said = time.monotonic()
        self._bar: tqdm[Any] = tqdm(
            total=planned, initial=done, desc=description, unit=unit, disable=not visible or self._lines
        )
        self._write()

    def add(
        self, key: str = "", failure: str | None = None, counts: dict[str, int] | None = None, units: int = 1
    ) -> None:
        """Counts the end of one unit, or of several."""
        if failure is not None:
            self.record.failed += 1
            self.record.first_failure = self.record.first_failure or f"{key}: {failure}"
        else:
            self.record.done += units
        for name, count in (counts or {}).items():
            self.record.counts[name] = self.record.counts.get(name, 0) + count
        self._bar.update(units)
        if time.time() - self._written >= _FILE_SECONDS:
            self._write()
        if self._lines and time.monotonic() - self._said >= _LINE_SECONDS:
            self._say()

    def note(self, **figures: object) -> None:
        """Shows the latest figures, such as a loss."""
        self.record.notes = ", ".join(f"{name} {value}" for name, value in figures.items())
        self._bar.set_postfix_str(self.record.notes, refresh=False)

    def note_deaths(self, deaths: int) -> None:
        """How many workers died in this run."""
        self.record.worker_deaths = deaths

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.record.ended = True
        self._write()
        self._bar.close()
        if self._lines and self.record.done > self.record.done_before:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        one = self.record
        seconds, fresh = time.time() - one.started, one.done - one.done_before
        of = f" of {one.planned}" if one.planned else ""
        line = f"   {one.description}: {one.done}{of} {one.unit}s after {duration(seconds)}"
        if one.planned and fresh and one.done < one.planned:
            line += f", {duration((one.planned - one.done) * seconds / fresh)} left"
        parts = [one.notes, *(f"{count} {name}" for name, count in self._faults().items())]
        print(", ".join([line, *filter(None, parts)]), file=sys.stderr, flush=True)

    def _faults(self) -> dict[str, int]:
        faults = {"failed": self.record.failed, "workers replaced": self.record.worker_deaths}
        return {name: count for name, count in faults.items() if count}

    def _write(self) -> None:
        """What the disk does not take is left out: the journal has the truth."""
        self._written = self.record.updated = time.time()
        if faults := self._faults():
            self._bar.set_postfix(faults, refresh=False)
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                write_json(self._path, asdict(self.record))


def progress_of(
    items: Iterable[Item], description: str, planned: int | None, unit: str, done: int = 0
) -> Iterator[Item]:
    """Yields the items and counts each as a unit when the next one is asked for."""
    with Progress(description, planned, unit, done) as progress:
        for item in items:
            yield item
            progress.add()


def duration(seconds: float) -> str:
    """A duration as people read it: 8.3 s, 12:05, 3:25:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3600 else text
