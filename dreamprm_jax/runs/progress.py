"""Progress of counted work: a bar on a terminal or else a line every minute, and a file for ``dreamprm status``."""

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

from dreamprm_jax.storage import write_json

Item = TypeVar("Item")

_FILE_SECONDS = 2.0
_LINE_SECONDS = 60.0  # interval between two lines; shorter work prints one line at its end


@dataclass
class ProgressRecord:
    """Content of the progress file. Times are seconds since the epoch."""

    planned: int  # total number of units, or 0 if unknown
    done_before: int  # units that were done when this run started
    done: int
    unit: str  # noun for one unit, in the singular
    description: str
    host: str
    started: float
    updated: float
    ended: bool = False  # whether the run finished or raised an error; False for a killed run
    failed: int = 0  # number of failed units in this run
    first_failure: str = ""
    worker_deaths: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # sums over this run's units: infrastructure errors, ...
    notes: str = ""  # latest metrics, such as a loss


def progress_path(work: Path) -> Path:
    """The progress file of a journal or folder. It is in the same parent folder."""
    return work.with_suffix(".progress.json")


class Progress:
    """Context manager that shows the progress of counted work."""

    def __init__(
        self,
        description: str,
        planned: int | None,
        unit: str,
        done: int = 0,
        work: Path | None = None,
        visible: bool = True,
    ) -> None:
        """Starts the record.

        Args:
          description: Description of the work, such as "judge train".
          planned: Number of distinct units, including finished ones; None if unknown.
          unit: Noun for one unit, in the singular.
          done: Number of units that are already finished.
          work: The journal or folder of the work (see ``progress_path``); None writes no progress file.
          visible: Whether this process prints and writes the file.
        """
        now = time.time()
        self.record = ProgressRecord(planned or 0, done, done, unit, description, socket.gethostname(), now, now)
        self._path = progress_path(work) if work is not None and visible else None
        self._written = 0.0
        self._lines = visible and not sys.stderr.isatty()
        self._printed = time.monotonic()
        self._bar: tqdm[Any] = tqdm(
            total=planned, initial=done, desc=description, unit=unit, disable=not visible or self._lines
        )
        self._write()

    def add(
        self, key: str = "", failure: str | None = None, counts: dict[str, int] | None = None, units: int = 1
    ) -> None:
        """Records ``units`` finished units, or one failed unit."""
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
        if self._lines and time.monotonic() - self._printed >= _LINE_SECONDS:
            self._print()

    def note(self, **figures: object) -> None:
        """Shows the latest metrics, such as a loss."""
        self.record.notes = ", ".join(f"{name} {value}" for name, value in figures.items())
        self._bar.set_postfix_str(self.record.notes, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.record.ended = True
        self._write()
        self._bar.close()
        if self._lines and self.record.done > self.record.done_before:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        record = self.record
        seconds, new = time.time() - record.started, record.done - record.done_before
        total = f" of {record.planned}" if record.planned else ""
        line = f"   {record.description}: {record.done}{total} {record.unit}s after {duration(seconds)}"
        if record.planned and new and record.done < record.planned:
            line += f", {duration((record.planned - record.done) * seconds / new)} left"
        parts = [record.notes, *(f"{count} {name}" for name, count in self._failures().items())]
        print(", ".join([line, *filter(None, parts)]), file=sys.stderr, flush=True)

    def _failures(self) -> dict[str, int]:
        failures = {"failed": self.record.failed, "workers replaced": self.record.worker_deaths}
        return {name: count for name, count in failures.items() if count}

    def _write(self) -> None:
        self._written = self.record.updated = time.time()
        if failures := self._failures():
            self._bar.set_postfix(failures, refresh=False)
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk affects only the display; the journal is exact
                write_json(self._path, asdict(self.record))


def progress_of(
    items: Iterable[Item], description: str, planned: int | None, unit: str, done: int = 0
) -> Iterator[Item]:
    """Yields the items and counts each as a finished unit when the next one is requested."""
    with Progress(description, planned, unit, done) as progress:
        for item in items:
            yield item
            progress.add()


def duration(seconds: float) -> str:
    """Formats a duration: 8.3 s, 12:05, 3:25:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3600 else text
