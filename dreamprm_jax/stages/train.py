"""The train stage: tokenizer, examples, and the arms one after another.

Every step-labeled arm starts with a warm-up on its labels and the outcomes, which arms with equal labels share. It then
continues with the same labels, infers them in every step, or learns them by the outer problem. ``orm`` trains on
outcomes alone, for as many steps.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import LabelSource
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel
from dreamprm_jax.storage import write_records
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arm_trainer import Labels, make_trainer
from dreamprm_jax.training.arms import ORM, arm_plans, describe
from dreamprm_jax.training.loop import check_settings
from dreamprm_jax.training.run_data import load_run_data


def train(config: Config, paths: Paths) -> dict[str, int]:
    """Trains every arm of ``config.train.arms``. Returns counts of what went in and what was left out.

    Raises:
      DataError: On settings or data that training cannot use; names the field or the file.
    """
    settings, counts = config.train, Counter[str]()
    check_settings(settings)
    arms = arm_plans(settings)

    data = load_run_data(config, paths, arms, counts)
    trainer = make_trainer(config, paths, data, counts)

    if ORM in settings.arms:
        trainer.train_on_outcomes()
    for plan in arms:
        labels = trainer.train_on_labels(plan)
        if plan.labeling != "raw" and distributed.is_main():
            _write_labels(paths.corrected_labels(plan.arm), data.source, labels, describe(plan, settings))
    return dict(counts)


def _write_labels(path: Path, source: LabelSource, labels: Labels, method: str) -> None:
    """The arm's labels beside the raw ones; a step that has none is left out."""
    rows = [
        CorrectedLabel(step.problem_id, step.program_hash, step.step_index, step.mean, float(label), method)
        for step, label in zip(source.steps, labels, strict=True)
        if np.isfinite(label)
    ]
    write_records(path, CorrectedLabel, rows)
