"""The train stage: tokenizer, examples, and the arms one after another.

Every step-labeled arm starts with a warm-up on its initial labels and the outcomes; arms with equal initial labels
share it. The arm then continues with the same labels, infers labels in every step, or learns them by the outer problem.
``orm`` trains on outcomes alone, for the same number of steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import (
    ONLINE,
    LabelSource,
    fault_evidence,
    fixed_labels,
    undetected_fault_labels,
)
from dreamprm_jax.models.fused import taking
from dreamprm_jax.models.reward import Params
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import CorrectedLabel, DataError
from dreamprm_jax.storage import write_json, write_records
from dreamprm_jax.tables import finite
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arms import ORM, ArmPlan, arm_plans, describe, make_parametrisation
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.label_table import PADDING, label_start
from dreamprm_jax.training.loop import Arm, ArmData, host_logits, train_arm
from dreamprm_jax.training.losses import Loss, Targets, make_inner_loss, make_outcome_loss
from dreamprm_jax.training.mesh import activate, make_mesh, own_mesh
from dreamprm_jax.training.online_label_inference import alive_posterior, inferred_labels
from dreamprm_jax.training.parameters import frozen_params, initial_params, trained_params
from dreamprm_jax.training.run_data import RunData, load_run_data
from dreamprm_jax.training.state import Setup, abstract_state, state_from_params
from dreamprm_jax.training.steps import pass_models

Labels = Float[np.ndarray, " n"]  # one for each noisy step, NaN for steps without a label

if TYPE_CHECKING:
    from dreamprm_jax.scoring.step_training import StepData


def train(config: Config, paths: Paths) -> dict[str, int]:
    """Trains every arm of ``config.train.arms``. Returns counts of used and skipped data.

    Raises:
      DataError: if training cannot use the data, naming the field or the file.
    """
    settings, counts = config.train, Counter[str]()
    plans = arm_plans(settings)
    given = None
    if settings.step_data.path:
        from dreamprm_jax.scoring.step_training import load_step_data

        given = load_step_data(config, paths, plans, counts)
    data = given.run if given else load_run_data(config, paths, plans, counts)
    mesh = make_mesh(settings.mesh)
    setup = Setup(settings, data.model, mesh, frozen_params(config, data.model, mesh))
    trainer = _Trainer(config, paths, data, setup, counts)
    trainer.count()

    if ORM in settings.arms:
        trainer.train_on_outcomes()
    for plan in plans:
        labels = trainer.train_on_labels(plan)
        if plan.labeling != "raw" and distributed.is_main():
            _write_labels(paths.corrected_labels(plan.arm), data.source, labels, describe(plan, settings))
    if given and given.evaluation:
        _evaluate(config, paths, given, setup.frozen)
    return dict(counts)


def _evaluate(config: Config, paths: Paths, given: StepData, frozen: Params) -> None:
    """Evaluates every arm on the held-out step labels; writes ``step_evaluation.json`` and prints a table."""
    from dreamprm_jax.scoring.step_figures import evaluate_steps, figures_table, position_figures, score_evaluation

    figures = []
    model, mesh = given.run.model, own_mesh(config.train.mesh)
    for arm in config.train.arms:
        _, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
        show = Progress(f"evaluate {arm}", len(given.evaluation), "solution", visible=distributed.is_main())
        with show as progress:
            scored = score_evaluation(
                model, mesh, params, given.evaluation, config, lambda count: progress.add(units=count)
            )
        figures.append(evaluate_steps(arm, scored))
    figures.append(position_figures(given.evaluation))
    if distributed.is_main():
        write_json(paths.step_evaluation(), finite([dataclasses.asdict(one) for one in figures]))
        print(f"\n{figures_table(figures)}\n", flush=True)


@dataclass
class _Trainer:
    """State shared by all arms. Only one arm's train state is on the devices at a time; the others are on disk."""

    config: Config
    paths: Paths
    data: RunData
    setup: Setup
    counts: Counter[str]
    _warmed_up: set[str] = field(default_factory=set)  # names of finished warm-ups
    _labels: dict[str, tuple[Labels, Targets | None]] = field(default_factory=dict)  # by labeling

    def train_on_outcomes(self) -> None:
        """Trains the outcome reward model."""
        data, settings = self.data, self.config.train
        loss = make_outcome_loss(taking(data.model, "once"), settings.loss)
        arm, none = Arm(ORM, loss, 0, settings.warmup_steps + settings.steps), np.zeros(0, np.float32)
        train_arm(
            self.setup, arm, ArmData(data.inner, data.outer, none, self.config.seed, data.measured), self._first_state,
            self.paths.arm(ORM),
        )  # fmt: skip

    def train_on_labels(self, plan: ArmPlan) -> Labels:
        """Trains a step-labeled arm: its warm-up unless an earlier arm shares it, then the arm's own steps.

        Returns:
          The arm's final labels.

        Raises:
          DataError: if the arm's labeling labels no step.
        """
        settings, data, setup = self.config.train, self.data, self.setup
        labels, infer = self._labels_at_start(plan)
        table = np.where(np.isfinite(labels), labels, PADDING)  # rows without a label are in no batch
        rows = (data.held_out if plan.held_out else data.inner).relabeled(labels)
        arm_data = ArmData(rows, data.outer, table, self.config.seed, data.measured)

        model = taking(data.model, "once")
        loss = make_inner_loss(model, None, settings.outcome_weight, plan.loss, settings.labels.gce_q, infer)
        if settings.warmup_steps and plan.warmup not in self._warmed_up:
            arm = Arm(plan.warmup, loss, 0, settings.warmup_steps)
            train_arm(setup, arm, arm_data, self._first_state, self.paths.arm(plan.warmup))
            self._warmed_up.add(plan.warmup)

        arm = Arm(plan.arm, loss, settings.warmup_steps, settings.warmup_steps + settings.steps)
        if plan.learned:
            arm = self._learned(arm, plan, labels)
        start = functools.partial(self._after_warmup, plan) if settings.warmup_steps else self._first_state
        state = train_arm(setup, arm, arm_data, start, self.paths.arm(plan.arm))
        if arm.labels is not None:
            phi = distributed.to_host(state.phi)
            learned = np.asarray(arm.labels.labels(phi, label_start(arm.labels, table).values))[: len(table)]
            return np.where(np.isfinite(labels), learned, np.nan)
        return labels if infer is None else self._inferred(state, labels, infer)

    def _labels_at_start(self, plan: ArmPlan) -> tuple[Labels, Targets | None]:
        """The initial labels; for online labelings the evidence, and the function that infers labels from it."""
        name, source = plan.start, self.data.source
        if name not in self._labels:
            if name in ONLINE:
                evidence, hidden = fault_evidence(source)
                infer = functools.partial(alive_posterior, hidden=hidden)
                self._labels[name] = (evidence.astype(np.float32), infer)
            else:
                self._labels[name] = (fixed_labels(name, source, self.config.train.labels).astype(np.float32), None)
        labels = self._labels[name][0]
        self.counts[f"steps labeled {name}"] = int(np.isfinite(labels).sum())
        if len(labels) and not np.isfinite(labels).any():
            raise DataError(f"arm {plan.arm}: labeling {name!r} labels none of the {len(labels)} steps")
        return self._labels[name]

    def _first_state(self) -> TrainState:
        """The initial train state, recomputed identically for every warm-up instead of kept in memory."""
        params = initial_params(self.config, self.data.model, self.setup.mesh, "trainable")
        return state_from_params(self.setup, params)

    def _after_warmup(self, plan: ArmPlan) -> TrainState:
        """The final state of the arm's warm-up, restored from its checkpoint."""
        settings = self.config.train
        folder = self.paths.arm(plan.warmup) / "checkpoints"
        with Checkpoints(folder, settings.checkpoint_every, settings.keep_checkpoints) as checkpoints:
            shapes = abstract_state(settings, self.data.model, self.setup.mesh)
            return checkpoints.restore(settings.warmup_steps, shapes)

    def _learned(self, arm: Arm, plan: ArmPlan, start: Labels) -> Arm:
        """The arm with labels learned by the outer problem; its steps are rounded up to a multiple of K."""
        settings = self.config.train
        labels = make_parametrisation(plan.labeling, start, self.data.source, settings.labels, self.config.seed)
        losses: list[Loss] = [
            make_inner_loss(model, labels, settings.outcome_weight, plan.loss, settings.labels.gce_q)
            for model in pass_models(self.data.model, settings.meta)
        ]
        steps = math.ceil(settings.steps / settings.meta.unroll) * settings.meta.unroll
        last = arm.first_step + steps
        return Arm(arm.name, losses[0], arm.first_step, last, labels, losses[1], self.data.outer_loss)

    def _inferred(self, state: TrainState, labels: Labels, infer: Targets) -> Labels:
        """The labels inferred by the trained model; programs that are no training examples get offline labels."""
        settings, data = self.config.train, self.data
        size = settings.batch_size // settings.accumulation
        rows = PackedRows(data.train, data.inner.shape.tokens, size, self.config.seed).relabeled(labels)
        show = Progress("infer labels", -(-len(rows.rows) // size), "batch", visible=distributed.is_main())
        with activate(data.model, self.setup.mesh), show as progress:

            def logits_of(batch: Batch) -> Float[np.ndarray, "B S"]:
                logits = host_logits(self.setup, state.params, batch)
                progress.add()
                return logits

            inferred = inferred_labels(logits_of, infer, rows, len(labels))
        if (missing := np.isnan(inferred)).any():  # programs that are too long or have no verdict
            return np.where(missing, undetected_fault_labels(data.source), inferred)
        return inferred

    def count(self) -> None:
        """Counts parameters and rows."""
        model, data, counts = self.data.model, self.data, self.counts
        trained = jax.tree.leaves(abstract_state(self.setup.config, model, self.setup.mesh).params)
        counts["parameters"] = sum(leaf.size for leaf in [*trained, *jax.tree.leaves(self.setup.frozen)])
        if model.lora is not None:
            counts["trainable parameters"] = sum(leaf.size for leaf in trained)
        counts["packed rows"] = len(data.inner.rows)
        counts["tokens per row"] = data.inner.shape.tokens
        counts["% packing efficiency"] = round(100 * data.inner.packing_efficiency)


def _write_labels(path: Path, source: LabelSource, labels: Labels, method: str) -> None:
    """Writes the arm's labels with the raw ones, without the steps that have no label."""
    rows = [
        CorrectedLabel(step.problem_id, step.program_hash, step.step_index, step.mean, float(label), method)
        for step, label in zip(source.steps, labels, strict=True)
        if np.isfinite(label)
    ]
    write_records(path, CorrectedLabel, rows)
