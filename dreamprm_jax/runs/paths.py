"""One folder per run: where each stage's files lie, and the fingerprints by which a stage knows its work is done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from dreamprm_jax.storage import TEMPORARY, read_json, write_json

STARTED = "STARTED.json"
DONE = "DONE.json"


@dataclass(frozen=True)
class Paths:
    """File names inside a run's folder. WINDOW is ``train``, ``meta`` or ``test``; ARM is a PRM's training arm."""

    root: Path

    def stage(self, name: str) -> Path:
        """The folder of one stage."""
        return self.root / name

    def problems(self, window: str) -> Path:
        """``schema.Problem`` rows of one window."""
        return self.root / "generate" / f"problems_{window}.parquet"

    def programs(self, window: str) -> Path:
        """``schema.Program`` rows: the candidates of one window."""
        return self.root / "generate" / f"programs_{window}.parquet"

    def compositions(self) -> Path:
        """Procedural benchmark: what the simulated policy knows of each problem. Training reads it for the truth
        (``evaluation/truth.py``) alone."""
        return self.root / "generate" / "compositions.json"

    def outcomes(self, window: str) -> Path:
        """``schema.Outcome`` rows: the verdicts on complete programs."""
        return self.root / "label" / f"outcomes_{window}.parquet"

    def step_labels(self) -> Path:
        """``schema.StepLabel`` rows of the train window."""
        return self.root / "label" / "step_labels.parquet"

    def truth(self, window: str) -> Path:
        """``schema.StepTruth`` rows (procedural benchmark), written and read by ``evaluate`` alone."""
        return self.root / "evaluate" / f"truth_{window}.parquet"

    def arm(self, arm: str) -> Path:
        """The training folder of one arm: checkpoints, metrics.jsonl, TensorBoard events."""
        return self.root / "train" / arm

    def corrected_labels(self, arm: str) -> Path:
        """``schema.CorrectedLabel`` rows of an arm that corrects labels."""
        return self.arm(arm) / "corrected_labels.parquet"

    def tokenizer(self) -> Path:
        """The tokenizer that the train stage made or was given."""
        return self.root / "train" / "tokenizer.json"

    def scores(self, arm: str, window: str = "test") -> Path:
        """``schema.Score`` rows of a window's candidates; of another window than ``test`` only where one was scored."""
        return self.root / "score" / (f"{arm}.parquet" if window == "test" else f"{arm}_{window}.parquet")

    def score_parts(self) -> Path:
        """Scores of single chunks, until they are joined."""
        return self.root / "score" / "parts"

    def results(self) -> Path:
        """The evaluation's figures, as JSON."""
        return self.root / "evaluate" / "results.json"

    def table(self) -> Path:
        """The evaluation's tables, as text."""
        return self.root / "evaluate" / "table.txt"

    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "report.html"


@dataclass(frozen=True)
class StageFolder:
    """A stage's folder with its completion marker."""

    path: Path
    fingerprint: str  # hash of the settings and inputs that the stage's output depends on

    def is_done(self) -> bool:
        """Whether the folder holds the finished output for this fingerprint."""
        marker = self.path / DONE
        return marker.exists() and read_json(marker)["fingerprint"] == self.fingerprint

    def open(self) -> Path | None:
        """Readies the folder: keeps work of the same fingerprint, moves other work aside, brings earlier work back.

        What a killed run left half-written is removed; the caller holds the run's lock, so nobody writes here now.

        Returns:
          Where earlier work for other settings was moved to, or None.
        """
        moved = None
        for half_written in [*self.path.rglob(TEMPORARY)]:
            if half_written.is_file():
                half_written.unlink()
        if self.path.exists() and _started_for(self.path) != self.fingerprint:
            moved = self._move_aside()
        if not self.path.exists():
            for earlier in sorted(self._old.glob(f"{self.path.name}-*")):
                if _started_for(earlier) == self.fingerprint:
                    shutil.move(earlier, self.path)
                    return moved
            self.path.mkdir(parents=True)
            write_json(self.path / STARTED, {"fingerprint": self.fingerprint})
        return moved

    def finish(self, counts: dict[str, int]) -> None:
        """Marks the stage as done, with its counts of read, written and skipped."""
        write_json(self.path / DONE, {"fingerprint": self.fingerprint, "counts": counts})

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


def _started_for(folder: Path) -> str | None:
    marker = folder / STARTED
    return read_json(marker)["fingerprint"] if marker.exists() else None
