"""The train stage: tokenizer, examples, and the arms one after another.

Every step-labeled arm starts with a warm-up on its labels and the outcomes, which arms with equal labels share. It then
continues with the same labels, infers them in every step, or learns them by the outer problem. ``orm`` trains on
outcomes alone, for as many steps.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import LabelSource
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel
from dreamprm_jax.storage import write_json, write_records
from dreamprm_jax.tables import finite
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arm_trainer import ArmTrainer, Labels, make_trainer
from dreamprm_jax.training.arms import ORM, arm_plans, describe
from dreamprm_jax.training.loop import check_settings
from dreamprm_jax.training.mesh import own_mesh
from dreamprm_jax.training.parameters import trained_params
from dreamprm_jax.training.run_data import load_run_data

if TYPE_CHECKING:
    from dreamprm_jax.scoring.step_training import StepData


def train(config: Config, paths: Paths) -> dict[str, int]:
    """Trains every arm of ``config.train.arms``. Returns counts of what went in and what was left out.

    Raises:
      DataError: On settings or data that training cannot use; names the field or the file.
    """
    settings, counts = config.train, Counter[str]()
    check_settings(settings)
    arms = arm_plans(settings)

    given = None
    if settings.step_data.path:
        from dreamprm_jax.scoring.step_training import load_step_data

        given = load_step_data(config, paths, arms, counts)
    data = given.run if given else load_run_data(config, paths, arms, counts)
    trainer = make_trainer(config, paths, data, counts)

    if ORM in settings.arms:
        trainer.train_on_outcomes()
    for plan in arms:
        labels = trainer.train_on_labels(plan)
        if plan.labeling != "raw" and distributed.is_main():
            _write_labels(paths.corrected_labels(plan.arm), data.source, labels, describe(plan, settings))
    if given and given.evaluation:
        _evaluate(config, paths, given, trainer)
    return dict(counts)


def _evaluate(config: Config, paths: Paths, given: StepData, trainer: ArmTrainer) -> None:
    """Measures every arm on the held-out step labels: ``step_evaluation.json``, and a table on the console."""
    from dreamprm_jax.scoring.step_figures import evaluate_steps, figures_table, position_figures, score_evaluation

    figures = []
    model, mesh = given.run.model, own_mesh(config.train.mesh)
    for arm in config.train.arms:
        _, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", trainer.frozen)
        figures.append(evaluate_steps(arm, score_evaluation(model, mesh, params, given.evaluation, config)))
    figures.append(position_figures(given.evaluation))
    if distributed.is_main():
        write_json(paths.step_evaluation(), finite([dataclasses.asdict(one) for one in figures]))
        print(f"\n{figures_table(figures)}\n", flush=True)


def _write_labels(path: Path, source: LabelSource, labels: Labels, method: str) -> None:
    """The arm's labels beside the raw ones; a step that has none is left out."""
    rows = [
        CorrectedLabel(step.problem_id, step.program_hash, step.step_index, step.mean, float(label), method)
        for step, label in zip(source.steps, labels, strict=True)
        if np.isfinite(label)
    ]
    write_records(path, CorrectedLabel, rows)
