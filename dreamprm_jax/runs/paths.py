"""Paths of all files of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Paths inside a run's folder. A window is ``train``, ``meta`` or ``test``; an arm is one trained reward model."""

    root: Path

    def stage(self, name: str) -> Path:
        """The folder of one stage."""
        return self.root / name

    def problems(self, window: str) -> Path:
        """``schema.Problem`` rows of one window."""
        return self.root / "generate" / f"problems_{window}.parquet"

    def hidden_tests(self) -> Path:
        """The hidden tests of all problems (``problems/hidden_tests.py``); only stages that judge read them."""
        return self.root / "generate" / "hidden_tests.parquet"

    def programs(self, window: str) -> Path:
        """``schema.Program`` rows: the candidates of one window."""
        return self.root / "generate" / f"programs_{window}.parquet"

    def compositions(self) -> Path:
        """The composition of each problem of the procedural benchmark, which the simulated policy reads."""
        return self.root / "generate" / "compositions.json"

    def outcomes(self, window: str) -> Path:
        """``schema.Outcome`` rows: the verdicts on complete programs."""
        return self.root / "label" / f"outcomes_{window}.parquet"

    def step_labels(self) -> Path:
        """``schema.StepLabel`` rows of the train window."""
        return self.root / "label" / "step_labels.parquet"

    def truth(self, window: str) -> Path:
        """``schema.StepTruth`` rows (procedural benchmark).

        Training reads them only for measurements and for the oracle labelings.
        """
        return self.root / "label" / f"truth_{window}.parquet"

    def arm(self, arm: str) -> Path:
        """The training folder of one arm: checkpoints, metrics.jsonl, TensorBoard events."""
        return self.root / "train" / arm

    def corrected_labels(self, arm: str) -> Path:
        """``schema.CorrectedLabel`` rows of an arm that corrects labels."""
        return self.arm(arm) / "corrected_labels.parquet"

    def step_evaluation(self) -> Path:
        """Metrics of the arms of `dreamprm train --steps` on held-out step labels, as JSON."""
        return self.root / "train" / "step_evaluation.json"

    def skipped_steps(self) -> Path:
        """Rows of step-labeled files that were skipped, as JSON lines."""
        return self.root / "train" / "steps.skipped.jsonl"

    def tokenizer(self) -> Path:
        """The reward model's tokenizer."""
        return self.root / "train" / "tokenizer.json"

    def scores(self, arm: str, window: str = "test") -> Path:
        """``schema.Score`` rows of a window's candidates. Windows other than ``test`` exist only if scored."""
        return self.root / "score" / (f"{arm}.parquet" if window == "test" else f"{arm}_{window}.parquet")

    def score_parts(self) -> Path:
        """Folder of the scores of single chunks, before they are joined."""
        return self.root / "score" / "parts"

    def results(self) -> Path:
        """The evaluation's results, as JSON."""
        return self.root / "evaluate" / "results.json"

    def table(self) -> Path:
        """The evaluation's tables, as text."""
        return self.root / "evaluate" / "table.txt"

    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "report.html"
