"""Trains the arms of a run one after another, from one initial state and from warm-ups that they share."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import ONLINE, fault_evidence, fixed_labels, undetected_fault_labels
from dreamprm_jax.models.fused import taking
from dreamprm_jax.models.reward import Params
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arms import ORM, ArmPlan, make_parametrisation
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.feed import PackedRows
from dreamprm_jax.training.label_table import PADDING, pad_labels, padded_rows, place_replicated, place_table
from dreamprm_jax.training.loop import Arm, ArmData, host_logits, train_arm
from dreamprm_jax.training.losses import Loss, Targets, make_inner_loss, make_outcome_loss
from dreamprm_jax.training.mesh import activate, check_divisible, make_mesh, optimizer_shardings
from dreamprm_jax.training.online_label_inference import alive_posterior, inferred_labels
from dreamprm_jax.training.parameters import initial_params
from dreamprm_jax.training.run_data import RunData
from dreamprm_jax.training.steps import make_meta_optimizer, make_optimizer, pass_models

Labels = Float[np.ndarray, " n"]  # one a noisy step, NaN where a step has none


@dataclass
class ArmTrainer:
    """What all arms share. ``make_trainer`` builds it."""

    config: Config
    paths: Paths
    data: RunData
    mesh: jax.sharding.Mesh
    start: TrainState  # of every warm-up
    frozen: Params
    counts: Counter[str]
    _warm: dict[str, TrainState] = field(default_factory=dict)  # by name of the warm-up
    _labels: dict[str, tuple[Labels, Targets | None]] = field(default_factory=dict)  # by labeling

    @property
    def last_step(self) -> int:
        """Steps of an arm, its warm-up included."""
        return self.config.train.warmup_steps + self.config.train.steps

    def train_on_outcomes(self) -> None:
        """Trains the outcome reward model."""
        data, settings = self.data, self.config.train
        arm = Arm(ORM, make_outcome_loss(taking(data.model, "reverse"), settings.loss), 0, self.last_step)
        self._fit(arm, ArmData(data.inner, data.outer, np.zeros(0, np.float32), self.config.seed, data.measured))

    def train_on_labels(self, plan: ArmPlan) -> Labels:
        """Trains a step-labeled arm: its warm-up if no arm before it had the same, then its own steps.

        Returns:
          The labels that it ended with.

        Raises:
          DataError: Where its labeling gives no step a label.
        """
        settings, data = self.config.train, self.data
        labels, infer = self._labels_at_start(plan)
        table = np.where(np.isfinite(labels), labels, PADDING)  # rows without a label are in no batch
        rows = (data.held_out if plan.held_out else data.inner).relabeled(labels)
        arm_data = ArmData(rows, data.outer, table, self.config.seed, data.measured)
        model = taking(data.model, "reverse")
        loss = make_inner_loss(model, None, settings.outcome_weight, plan.loss, settings.labels.gce_q, infer)
        if plan.warmup not in self._warm:
            self._warm[plan.warmup] = self._fit(Arm(plan.warmup, loss, 0, settings.warmup_steps), arm_data)
        if plan.learned:
            return np.where(np.isfinite(labels), self._learn(plan, labels, arm_data), np.nan)
        arm = Arm(plan.arm, loss, settings.warmup_steps, self.last_step)
        state = self._fit(arm, arm_data, self._warm[plan.warmup])
        return labels if infer is None else self._infer(state, labels, infer)

    def _labels_at_start(self, plan: ArmPlan) -> tuple[Labels, Targets | None]:
        """Labels; or evidence, and what the training steps make of it. Arms may start from the same labels."""
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
            raise DataError(f"arm {plan.arm}: labeling {name!r} gives none of the {len(labels)} steps a label")
        return self._labels[name]

    def _fit(self, arm: Arm, data: ArmData, start: TrainState | None = None) -> TrainState:
        folder = self.paths.arm(arm.name)
        first = self.start if start is None else start
        return train_arm(self.config.train, self.data.model, self.mesh, arm, data, first, folder, self.frozen)

    def _learn(self, plan: ArmPlan, raw: Labels, data: ArmData) -> Labels:
        """Trains an arm whose labels the outer problem learns. Returns the label of every step."""
        settings, model, mesh = self.config.train, self.data.model, self.mesh
        labels = make_parametrisation(plan.labeling, raw, self.data.source, settings.labels, self.config.seed)
        start = jnp.asarray(pad_labels(data.raw, padded_rows(len(data.raw))) if labels.is_table else data.raw)
        phi, place = labels.init(start), place_table if labels.is_table else place_replicated
        meta_state = make_meta_optimizer(settings, labels).init(phi)
        state = self._warm[plan.warmup]._replace(phi=place(phi, mesh), meta_opt_state=place(meta_state, mesh))
        losses: list[Loss] = [
            make_inner_loss(of_pass, labels, settings.outcome_weight, plan.loss, settings.labels.gce_q)
            for of_pass in pass_models(model, settings.meta)
        ]
        calls = math.ceil(settings.steps / settings.meta.unroll)  # a whole number of calls of K steps each
        last = settings.warmup_steps + calls * settings.meta.unroll
        first = settings.warmup_steps
        arm = Arm(plan.arm, losses[0], first, last, labels, tangent_loss=losses[1], outer_loss=self.data.outer_loss)
        state = self._fit(arm, data, state)
        return np.asarray(labels.labels(distributed.to_host(state.phi), start))[: len(data.raw)]

    def _infer(self, state: TrainState, labels: Labels, infer: Targets) -> Labels:
        """The labels that the trained model infers, for the steps of every program that it can read."""
        settings, model = self.config.train, self.data.model
        size = settings.batch_size // settings.accumulation
        rows = PackedRows(self.data.train, settings.row_tokens, size, self.config.seed).relabeled(labels)
        logits_of = functools.partial(host_logits, model, self.mesh, state.params, self.frozen)
        with activate(model, self.mesh):
            inferred = inferred_labels(logits_of, infer, rows, len(labels))
        if (left_out := np.isnan(inferred)).any():  # programs that are no examples: too long, no verdict
            return np.where(left_out, undetected_fault_labels(self.data.source), inferred)
        return inferred


def make_trainer(config: Config, paths: Paths, data: RunData, counts: Counter[str]) -> ArmTrainer:
    """Makes the mesh, the parameters and the optimizer's state.

    Raises:
      DataError: Where the batches do not divide over the devices.
    """
    settings, mesh = config.train, make_mesh(config.train.mesh)
    check_divisible(mesh, settings.batch_size, "config.train.batch_size")
    check_divisible(mesh, settings.meta.batch_size, "config.train.meta.batch_size")
    params, frozen = initial_params(config, data.model, mesh)
    optimizer = make_optimizer(settings)
    shardings = optimizer_shardings(optimizer, params, jax.tree.map(lambda leaf: leaf.sharding, params), mesh)
    start = TrainState(params, jax.jit(optimizer.init, out_shardings=shardings)(params), (), ())
    counts["parameters"] = sum(leaf.size for leaf in jax.tree.leaves((params, frozen)))
    if data.model.lora is not None:
        counts["trainable parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    counts["packed rows"] = len(data.inner.rows)
    counts["tokens a row"] = data.inner.shape.tokens
    counts["packing efficiency, percent"] = round(100 * data.inner.packing_efficiency)
    return ArmTrainer(config, paths, data, mesh, start, frozen, counts)
