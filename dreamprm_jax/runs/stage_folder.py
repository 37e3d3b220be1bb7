"""A stage's folder: its markers, and what happens to work that was done for other settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import TEMPORARY, read_json, write_json

STARTED = "STARTED.json"
DONE = "DONE.json"


@dataclass(frozen=True)
class StageFolder:
    """A stage's folder with its markers.

    Attributes:
      path: Of the folder.
      fingerprint: Of everything that the stage's output depends on (``runs/fingerprint.py``).
    """

    path: Path
    fingerprint: str

    def is_done(self) -> bool:
        """Whether the folder holds the finished output for this fingerprint."""
        return _fingerprint_in(self.path / DONE) == self.fingerprint

    def open(self, settings: dict[str, Any], reuse: str = "") -> Path | None:
        """Readies the folder: keeps work of the same fingerprint, moves other work aside, brings earlier work back.

        What a killed run left half-written is removed; the caller holds the run's lock, so nobody writes here now.

        Args:
          settings: all settings of the run, which the marker keeps.
          reuse: a pattern of files that stay in use when work is moved aside, such as journals whose keys name
            everything that their values depend on; empty for none.

        Returns:
          Where earlier work for other settings was moved to, or None.
        """
        moved = None
        for half_written in [*self.path.rglob(TEMPORARY)]:
            if half_written.is_file():
                half_written.unlink()
        if self.path.exists() and _fingerprint_in(self.path / STARTED) != self.fingerprint:
            moved = self._move_aside()
        if not self.path.exists():
            for earlier in sorted(self._old.glob(f"{self.path.name}-*")):
                if _fingerprint_in(earlier / STARTED) == self.fingerprint:
                    shutil.move(earlier, self.path)
                    break
            else:
                self.path.mkdir(parents=True)
        if moved is not None and reuse:
            for journal in moved.glob(reuse):
                if not (self.path / journal.name).exists():
                    _link(journal, self.path / journal.name)
        write_json(self.path / STARTED, {"fingerprint": self.fingerprint, "config": settings})
        return moved

    def finish(self, counts: dict[str, int], seconds: float) -> None:
        """Marks the stage as done, with its counts of read, written and skipped, and how long it took."""
        write_json(self.path / DONE, {"fingerprint": self.fingerprint, "counts": counts, "seconds": round(seconds, 1)})

    @property
    def _old(self) -> Path:
        return self.path.parent / "old"

    def _move_aside(self) -> Path:
        self._old.mkdir(exist_ok=True)
        number = 1
        while (target := self._old / f"{self.path.name}-{number}").exists():
            number += 1
        shutil.move(self.path, target)
        return target


def stage_folder(config: Config, root: Path, name: str) -> StageFolder:
    """The folder of a run's stage, for these settings."""
    return StageFolder(Paths(root).stage(name), fingerprint(config, name, root))


def require_done(config: Config, root: Path, name: str) -> None:
    """Raises DataError where a stage of the run has not finished for these settings."""
    if not stage_folder(config, root, name).is_done():
        raise DataError(
            f"{root / name}: stage {name!r} has not finished for these settings; run `dreamprm {name}` first, with the "
            "same --config and --workdir, or `dreamprm run`"
        )


def _fingerprint_in(marker: Path) -> str | None:
    return read_json(marker)["fingerprint"] if marker.exists() else None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
