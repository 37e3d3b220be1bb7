"""A stage's folder: its marker files, and the archiving of output that was made with other settings."""

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
    """A stage's folder with its marker files.

    Attributes:
      path: Path of the folder.
      fingerprint: Hash of everything that the stage's output depends on (``runs/fingerprint.py``).
    """

    path: Path
    fingerprint: str

    def is_done(self) -> bool:
        """Whether the folder holds the finished output for this fingerprint."""
        return _fingerprint_in(self.path / DONE) == self.fingerprint

    def open(self, settings: dict[str, Any], reuse: str = "") -> None:
        """Prepares the folder: keeps output of the same fingerprint, archives other output, restores earlier output.

        Prints the folder to which other output was moved. Temporary files of a killed run are removed. The caller holds
        the run's lock, so no other process writes here.

        Args:
          settings: All settings of the run, stored in the marker.
          reuse: Glob pattern of files that stay in use when output is archived, such as journals whose keys contain
            everything that their values depend on; empty for none.
        """
        moved = None
        for temporary in [*self.path.rglob(TEMPORARY)]:
            if temporary.is_file():
                temporary.unlink()
        if self.path.exists() and _fingerprint_in(self.path / STARTED) != self.fingerprint:
            moved = self._archive()
            print(f"   earlier output was made with other settings or files; moved to {moved}", flush=True)
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

    def finish(self, counts: dict[str, int], seconds: float) -> None:
        """Marks the stage as done and stores its counts and its duration."""
        write_json(self.path / DONE, {"fingerprint": self.fingerprint, "counts": counts, "seconds": round(seconds, 1)})

    @property
    def _old(self) -> Path:
        return self.path.parent / "old"

    def _archive(self) -> Path:
        self._old.mkdir(exist_ok=True)
        number = 1
        while (target := self._old / f"{self.path.name}-{number}").exists():
            number += 1
        shutil.move(self.path, target)
        return target


def stage_folder(config: Config, root: Path, name: str) -> StageFolder:
    """The folder of stage ``name`` in the run ``root``, with the fingerprint of these settings."""
    return StageFolder(Paths(root).stage(name), fingerprint(config, name, root))


def require_done(config: Config, root: Path, name: str) -> None:
    """Raises DataError if stage ``name`` of the run has not finished for these settings."""
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
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)
