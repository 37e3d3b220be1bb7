"""Trains the study's reward models with the trainer's losses and steps, many steps in one compiled program.

A study trains hundreds of small models of a few shapes. Therefore all steps of a fit are one ``lax.scan`` over batches
that are created in advance. Labels are part of the batches, and q is an argument, so that all labelings, regimes and
seeds share one compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import Params, RewardHead, hidden_states, init_params
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.label_table import LabelStart
from dreamprm_jax.training.loop import make_plain_step
from dreamprm_jax.training.losses import (
    batch_logits,
    elementwise_loss,
    make_inner_loss,
    make_outcome_loss,
    outcome_loss,
    step_loss,
)
from dreamprm_jax.training.online_label_inference import alive_posterior
from dreamprm_jax.training.optimizer import make_meta_optimizer, make_optimizer
from dreamprm_jax.training.steps import LabelMove, StepInputs, make_bilevel_step

Inner = Literal["adamw", "sgd"]
Outer = Literal["last", "mean", "sum"]
VALUE_HEAD = "value_head"
SGD = f"{Path(__file__).with_name('sgd.py')}:clipped_sgd"


@dataclass(frozen=True)
class Recipe:
    """How the reward model's parameters are trained."""

    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b2: float = 0.98
    steps: int = 400  # total number of training steps
    optimizer: Inner = "adamw"
    sgd_rate: float = 0.3  # learning rate of "sgd"

    def train_config(self, **others: Any) -> TrainConfig:
        """The trainer's settings, with the additional settings ``others``."""
        sgd = self.optimizer == "sgd"
        return TrainConfig(
            warmup_steps=0,
            steps=self.steps,
            optimizer=SGD if sgd else "adamw",
            learning_rate=self.sgd_rate if sgd else self.learning_rate,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            adam_b2=self.adam_b2,
            **others,
        )


def batches(rows: PackedRows, first: int, last: int) -> Batch:
    """The batches of steps ``first`` to ``last`` (exclusive), stacked along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(rows.batch(step) for step in range(first, last)))


@dataclass(frozen=True)
class Extras:
    """Additions of an arm to the trainer's loss, as described in ``arms.ArmSpec``."""

    value_head: bool = False
    certainty: bool = False
    mask: float = 0.0


@dataclass(frozen=True)
class Fitter:
    """A reward model's shape and the settings of its training."""

    model: DecoderConfig
    config: TrainConfig
    extras: Extras = Extras()

    def start(self, seed: int) -> TrainState:
        """The initial train state with random parameters."""
        params = _init(self.model)(jax.random.key(seed))
        if self.extras.value_head:
            params = params | {VALUE_HEAD: jax.tree.map(jnp.zeros_like, params["head"])}
        return TrainState(params, make_optimizer(self.config).init(params), (), ())

    def fit(
        self,
        state: TrainState,
        data: Batch,
        outcomes_only: bool = False,
        hidden: float | None = None,
        values: Float[np.ndarray, "steps B S"] | None = None,
    ) -> TrainState:
        """First-order training.

        Args:
          state: Initial state.
          data: Batches with leaves [steps, B, ...].
          outcomes_only: Whether to train an outcome reward model, which uses no step labels.
          hidden: q of the online inference, for which the label slots contain evidence. None: they contain labels.
          values: Labels of the second head, if there is one.
        """
        q = None if hidden is None else jnp.float32(hidden)
        if self.extras != Extras():
            return _with_extras(self)(state, data, q, values)
        return _plain(self, outcomes_only)(state, data, q)

    def second_stage(self, steps: int) -> Fitter:
        """The fitter of a separate second stage, whose inner loss has only step labels."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, outcome_weight=0.0, steps=steps))

    def with_labels(self, state: TrainState, labels: Parametrisation, raw: Float[np.ndarray, " n"]) -> TrainState:
        """The state with label-side parameters that start from ``raw``."""
        phi = labels.init(jnp.asarray(raw))
        return state._replace(phi=phi, meta_opt_state=make_meta_optimizer(self.config, labels).init(phi))

    def fit_bilevel(
        self,
        state: TrainState,
        inputs: StepInputs,
        labels: Parametrisation,
        raw: Float[np.ndarray, " n"],
        clean_steps: bool = False,
        outer: Outer = "last",
    ) -> tuple[TrainState, LabelMove]:
        """Bi-level training: K inner steps, then one step of phi along the exact hypergradient.

        Args:
          state: The result of ``with_labels``.
          inputs: Leaves of ``batch`` [calls * K, B, ...] and of ``outer`` [calls, B, ...].
          labels: Parametrization of the labels by phi.
          raw: float32[n], the labels from which phi started.
          clean_steps: Whether the outer loss also uses the step labels in ``inputs.outer``.
          outer: Aggregate of a program's step logits that the outer loss compares with its outcome.

        Returns:
          The last state, and the change of the labels in every call, with leaves [calls, n].
        """
        unroll = self.config.meta.unroll
        batch = inputs.batch
        if unroll > 1:
            batch = jax.tree.map(lambda leaf: leaf.reshape(-1, unroll, *leaf.shape[1:]), batch)
        return _bilevel(self, cast(Hashable, labels), clean_steps, outer)(state, batch, inputs.outer, jnp.asarray(raw))


@functools.cache
def _init(model: DecoderConfig) -> Any:
    return jax.jit(functools.partial(init_params, model))


@functools.cache
def _plain(fitter: Fitter, outcomes_only: bool) -> Any:
    model, config = fitter.model, fitter.config

    @jax.jit
    def run(state: TrainState, data: Batch, hidden: Array | None) -> TrainState:
        infer = None if hidden is None else functools.partial(alive_posterior, hidden=hidden)
        loss = (
            make_outcome_loss(model)
            if outcomes_only
            else make_inner_loss(model, None, config.outcome_weight, config.loss, infer=infer)
        )
        step = make_plain_step(loss, make_optimizer(config))
        return jax.lax.scan(lambda state, batch: (step(state, StepInputs(batch)).state, None), state, data)[0]

    return run


@functools.cache
def _with_extras(fitter: Fitter) -> Any:
    """``_plain`` with the arm's extras. The token mask depends only on the step number, so arms have equal masks."""
    model, config, extras = fitter.model, fitter.config, fitter.extras

    def loss(params: Params, key: Array, batch: Batch, hidden: Array | None, values: Array | None) -> Float[Array, ""]:
        if extras.mask:
            shown = jax.random.uniform(key, batch.tokens.shape) >= extras.mask
            batch = batch._replace(tokens=jnp.where(shown, batch.tokens, 0))
        states = hidden_states(model, params, batch.tokens, batch.positions, batch.segments)
        states = jnp.take_along_axis(states, batch.step_index[:, :, None], axis=1)

        def head_loss(name: str, labels: Array | None) -> Float[Array, ""]:
            logits = cast(Array, RewardHead(model).apply({"params": params[name]}, states))
            found = jax.lax.stop_gradient(logits)
            targets = labels if labels is not None else batch.raw
            if labels is None and hidden is not None:
                targets = alive_posterior(found, batch, hidden)
            weights = jnp.abs(2.0 * targets - 1.0) if extras.certainty else jnp.ones_like(targets)
            steps = step_loss(elementwise_loss(config.loss, logits, targets), weights, batch)
            return steps + config.outcome_weight * outcome_loss(logits, batch)

        total = head_loss("head", None)
        return total + head_loss(VALUE_HEAD, values) if extras.value_head else total

    @jax.jit
    def run(state: TrainState, data: Batch, hidden: Array | None, values: Array | None) -> TrainState:
        optimizer = make_optimizer(config)

        def step(state: TrainState, here: Any) -> tuple[TrainState, None]:
            number, batch, labels = here
            gradient = jax.grad(loss)(state.params, jax.random.key(number), batch, hidden, labels)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state), None

        return jax.lax.scan(step, state, (jnp.arange(len(data.tokens)), data, values))[0]

    return run


@functools.lru_cache(maxsize=16)
def _bilevel(fitter: Fitter, labels: Any, clean_steps: bool, outer: Outer) -> Any:
    """Compiled once per parametrization. Tables contain no data and are shared; networks contain their features."""
    model, config = fitter.model, fitter.config
    inner_loss = make_inner_loss(model, labels, config.outcome_weight)
    steps_and_outcomes = make_inner_loss(model, None, 1.0)

    def with_clean_steps(params: Params, batch: Batch) -> Float[Array, ""]:
        return steps_and_outcomes(params, (), batch)

    def aggregated(params: Params, batch: Batch) -> Float[Array, ""]:
        return outcome_loss(aggregate_logits(batch_logits(model, params, batch), batch, outer), batch)

    outer_loss = with_clean_steps if clean_steps else None if outer == "last" else aggregated

    @jax.jit
    def run(state: TrainState, data: Batch, outer_data: Batch, raw: Array) -> tuple[TrainState, LabelMove]:
        step = make_bilevel_step(model, inner_loss, labels, make_optimizer(config), config, outer_loss)
        start = LabelStart(raw, jnp.int32(len(raw)))

        def one(state: TrainState, both: tuple[Batch, Batch]) -> tuple[TrainState, Any]:
            result = step(state, StepInputs(*both, do_meta=True, labels=start))
            return result.state, result.label_move

        return jax.lax.scan(one, state, (data, outer_data))

    return run


def aggregate_logits(logits: Float[Array, "B S"], batch: Batch, outer: Outer) -> Float[Array, "B S"]:
    """The mean or sum of each program's step logits, to be read at the last step. Values elsewhere are meaningless."""
    last = batch.outcome_mask.astype(jnp.int32)
    program = jnp.cumsum(last, axis=1) - last

    def of_row(values: Array, numbers: Array) -> Array:
        total = jax.ops.segment_sum(values, numbers, len(values))
        count = jax.ops.segment_sum(jnp.ones_like(values), numbers, len(values))
        return (total / jnp.maximum(count, 1.0) if outer == "mean" else total)[numbers]

    return jax.vmap(of_row)(logits, program)


@functools.cache
def _forward(model: DecoderConfig) -> Any:
    return jax.jit(functools.partial(batch_logits, model))


def reader(model: DecoderConfig, params: Params) -> Any:
    """A function from a batch to its logits [B, S]."""
    return functools.partial(_forward(model), params)
