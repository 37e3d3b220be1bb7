"""Cross-fitted labels: the hidden-fault EM with reward models for its prior, each asked only about programs it has not
been trained on.

The problems are split into folds. A reward model trained on the labels of all folds but one scores the programs of that
one; its scores give the hazards of their steps (``labeling.fault_model``), the counts and the outcome the evidence. So
what one program's function taught is used on another's, and (in the first round) no label confirms itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamprm_jax.config import TrainConfig
from dreamprm_jax.labeling.labellings import LabelSource, StepKey, hidden_fault_labels
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.every_step import every_step
from dreamprm_jax.training.examples import Example
from dreamprm_jax.training.feed import Batch, PackedRows

# (name, settings, rows to train on) -> logits of a batch by the model trained
Trainer = Callable[[str, TrainConfig, PackedRows], Callable[[Batch], Any]]


def cross_fitted_labels(
    settings: TrainConfig,
    seed: int,
    source: LabelSource,
    train: Sequence[Example],
    meta: Sequence[Example],
    train_model: Trainer,
) -> Float[np.ndarray, " n"]:
    """P(recoverable) of ``source.steps``.

    Args:
      settings: ``labels.folds``, ``labels.rounds``; a fold's model takes its share of the steps of an arm.
      seed: of the packing.
      source: counts and outcomes.
      train: the programs whose steps are labelled.
      meta: programs that give their outcomes to every fold.
      train_model: trains one model; a finished one is read back.

    Raises:
      DataError: with fewer problems than folds.
    """
    folds, labels = settings.labels.folds, hidden_fault_labels(source)
    problems = {key: place for place, key in enumerate(dict.fromkeys(example.problem_id for example in train))}
    if len(problems) < folds:
        raise DataError(f"config.train.labels.folds={folds}: there are only {len(problems)} training problems")
    steps = max(1, (settings.warmup_steps + settings.steps) * (folds - 1) // folds)
    share = dataclasses.replace(settings, warmup_steps=0, steps=steps, evaluate_every=0)
    size = settings.batch_size // settings.accumulation
    for round_ in range(settings.labels.rounds):
        scores: dict[StepKey, float] = {}
        for fold in range(folds):
            held = [example for example in train if problems[example.problem_id] % folds == fold]
            seen = [example for example in train if problems[example.problem_id] % folds != fold]
            rows = PackedRows([*seen, *meta], settings.row_tokens, settings.batch_size, seed)
            model = train_model(f"fold_{round_}_{fold}", share, rows.relabelled(labels.astype(np.float32)))
            read = every_step(model, PackedRows(held, settings.row_tokens, size, seed))
            del model  # before the next one is trained
            for example, logits in zip(held, read, strict=True):
                for step, logit in enumerate(logits):
                    scores[example.problem_id, example.program_hash, step] = float(1.0 / (1.0 + np.exp(-logit)))
        labels = hidden_fault_labels(source, scores)
    return labels
