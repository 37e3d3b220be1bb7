"""Training of the study's reward models: the package's losses, hypergradient and optimizers, many steps in one program.

A study trains hundreds of small models of a few shapes. So all steps of a fit are one ``lax.scan`` over batches made
beforehand, compiled once for all labellings, regimes and seeds: labels and loss weights are arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.bilevel.hypergradient import make_meta_gradient
from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import Params, init_params
from dreamprm_jax.training.every_step import every_step
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.losses import batch_logits, elementwise_loss, outcome_loss, step_loss
from dreamprm_jax.training.online_faults import alive_posterior
from dreamprm_jax.training.steps import learning_rate_schedule

Inner = Literal["adamw", "sgd"]
WRONG_BY = 0.1  # above the floor that labels are clipped to before a table starts from them


@dataclass(frozen=True)
class Recipe:
    """How the reward model's parameters are trained."""

    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b2: float = 0.98
    steps: int = 400  # of a whole training
    optimizer: Inner = "adamw"
    sgd_rate: float = 0.3  # learning rate of "sgd"


class Weights(NamedTuple):
    """What the terms of the inner loss count."""

    steps: float = 1.0
    outcomes: float = 1.0


class State(NamedTuple):
    """Parameters and their optimizer's state."""

    params: Params
    opt_state: Any


class MetaState(NamedTuple):
    """Label-side parameters and their optimizer's state."""

    phi: Any
    opt_state: Any


class Trace(NamedTuple):
    """Of every bi-level step."""

    outer_loss: Float[Array, " steps"]
    # of the touched labels that are wrong by more than WRONG_BY, the share that the hypergradient moves to the truth
    agreement: Float[Array, "steps truths"]


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Clipping, and AdamW or SGD, on a linear rise and a cosine fall over all steps."""
    rate = recipe.learning_rate if recipe.optimizer == "adamw" else recipe.sgd_rate
    schedule = learning_rate_schedule(rate, recipe.steps)
    clip = optimizers.clip_by_global_norm(recipe.clip_norm)
    if recipe.optimizer == "sgd":
        return optax.chain(clip, optax.sgd(schedule))
    return optax.chain(clip, optimizers.adamw(schedule, b2=recipe.adam_b2, weight_decay=recipe.weight_decay))


def start(model: DecoderConfig, recipe: Recipe, seed: int) -> State:
    """A random model."""
    params = _init(model)(jax.random.key(seed))
    return State(params, make_optimizer(recipe).init(params))


@functools.cache
def _init(model: DecoderConfig) -> Any:
    return jax.jit(functools.partial(init_params, model))


def batches(rows: PackedRows, first: int, last: int) -> Batch:
    """The batches of steps ``first`` to ``last``, stacked."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(rows.batch(step) for step in range(first, last)))


def fit(
    model: DecoderConfig,
    recipe: Recipe,
    state: State,
    data: Batch,
    weights: Weights,
    loss: str = "bce",
    hidden: float | None = None,
) -> State:
    """First-order training on the labels in ``data``; given q, on what the online EM makes of the evidence there."""
    return _plain(model, recipe, loss)(state, data, weights, None if hidden is None else jnp.float32(hidden))


@functools.cache
def _plain(model: DecoderConfig, recipe: Recipe, kind: str) -> Any:
    optimizer = make_optimizer(recipe)

    def loss(params: Params, batch: Batch, weights: Weights, hidden: Array | None) -> Float[Array, ""]:
        logits = batch_logits(model, params, batch)
        targets = batch.raw
        if hidden is not None:
            targets = alive_posterior(jax.lax.stop_gradient(logits), batch, hidden)
        losses = elementwise_loss(kind, logits, targets)  # type: ignore[arg-type]
        steps = step_loss(losses, jnp.ones_like(batch.raw), batch)
        return weights.steps * steps + weights.outcomes * outcome_loss(logits, batch)

    @jax.jit
    def run(state: State, data: Batch, weights: Weights, hidden: Array | None) -> State:
        def step(state: State, batch: Batch) -> tuple[State, None]:
            gradient = jax.grad(loss)(state.params, batch, weights, hidden)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            return State(optax.apply_updates(state.params, updates), opt_state), None

        return jax.lax.scan(step, state, data)[0]

    return run


def fit_bilevel(
    model: DecoderConfig,
    recipe: Recipe,
    labels: Parametrisation,
    unroll: int,
    meta_rate: float,
    state: State,
    meta: MetaState,
    data: Batch,
    outer: Batch,
    weights: Weights,
    clean_weight: float,
    raw: Float[np.ndarray, " n"],
    truths: Float[np.ndarray, "truths n"],
) -> tuple[State, MetaState, Trace]:
    """Bi-level training: K inner steps, then one step of phi along the exact hypergradient.

    Args:
      model: the reward model.
      recipe: the inner optimizer.
      labels: what phi means.
      unroll: K.
      meta_rate: learning rate of phi's Adam.
      state: theta.
      meta: phi.
      data: leaves [calls * K, B, ...].
      outer: leaves [calls, B, ...]; its label slots hold clean step labels, where it has any.
      weights: of the inner loss.
      clean_weight: of the clean step labels in the outer loss.
      raw: labels that phi started from.
      truths: of the labels; nan where unknown. For the diagnosis alone.
    """
    calls = jax.tree.map(lambda leaf: leaf.reshape(-1, unroll, 1, *leaf.shape[1:]), data)
    run = _bilevel(model, recipe, cast(Hashable, labels))
    figures = (jnp.float32(meta_rate), jnp.float32(clean_weight))
    return run(state, meta, calls, outer, weights, *figures, jnp.asarray(raw), jnp.asarray(truths))


def meta_start(labels: Parametrisation, raw: Float[np.ndarray, " n"]) -> MetaState:
    """phi at the start."""
    phi = labels.init(jnp.asarray(raw, jnp.float32))
    return MetaState(phi, _meta_optimizer(labels).init(phi))


def _meta_optimizer(labels: Parametrisation) -> optax.GradientTransformationExtraArgs:
    """Adam with rate 1: the rate is an argument of the compiled program, which multiplies the update."""
    if labels.is_table:
        return optimizers.lazy_adam(1.0)
    return optax.with_extra_args_support(optimizers.adamw(1.0, weight_decay=0.0))


@functools.lru_cache(maxsize=16)
def _bilevel(model: DecoderConfig, recipe: Recipe, labels: Any) -> Any:
    """Compiled once for each parametrisation: tables that hold no data may be shared, networks hold their features."""
    optimizer, meta_optimizer = make_optimizer(recipe), _meta_optimizer(labels)

    def inner_loss(params: Params, phi_and_weights: Any, batch: Batch) -> Float[Array, ""]:
        phi, weights = phi_and_weights
        logits = batch_logits(model, params, batch)
        targets, scale = labels.targets_and_weights(phi, batch.label_index, batch.raw)
        steps = step_loss(elementwise_loss("bce", logits, targets), scale, batch)
        return weights.steps * steps + weights.outcomes * outcome_loss(logits, batch)

    def outer_loss(params: Params, batch_and_weight: Any) -> Float[Array, ""]:
        batch, clean = batch_and_weight
        logits = batch_logits(model, params, batch)
        steps = step_loss(elementwise_loss("bce", logits, batch.raw), jnp.ones_like(batch.raw), batch)
        return outcome_loss(logits, batch) + clean * steps

    gradient = make_meta_gradient(inner_loss, outer_loss, optimizer)

    @jax.jit
    def run(
        state: State,
        meta: MetaState,
        data: Batch,
        outer: Batch,
        weights: Weights,
        rate: Array,
        clean: Array,
        raw: Array,
        truths: Array,
    ) -> tuple[State, MetaState, Trace]:
        weights = jax.tree.map(lambda weight: jnp.asarray(weight, jnp.float32), weights)

        def step(carry: tuple[State, MetaState], both: tuple[Batch, Batch]) -> tuple[tuple[State, MetaState], Trace]:
            (state, meta), (batch, held) = carry, both
            outer_batch = jax.tree.map(lambda leaf: leaf[None], (held, clean))
            result = gradient(*state, (meta.phi, weights), batch, outer_batch, do_meta=jnp.asarray(True))
            slope = result.hypergradient[0]
            touched = optimizers.touched_rows(batch.label_index, len(raw), batch.label_mask)
            updates, opt_state = meta_optimizer.update(slope, meta.opt_state, meta.phi, touched=touched)
            updates = jax.tree.map(lambda update: rate * update, updates)
            phi = labels.project(optax.apply_updates(meta.phi, updates))
            before, direction = jax.jvp(
                lambda phi: labels.labels(phi, raw), (meta.phi,), (jax.tree.map(jnp.negative, slope),)
            )
            error = jnp.where(jnp.isfinite(truths), truths - before, 0.0)  # [truths, n]
            counted = touched & (jnp.abs(error) > WRONG_BY) & (direction != 0)
            right = jnp.sum(counted & (jnp.sign(error) == jnp.sign(direction)), axis=1)
            total = jnp.sum(counted, axis=1)
            trace = Trace(result.outer_loss, jnp.where(total > 0, right / jnp.maximum(total, 1), jnp.nan))
            return (State(result.params, result.opt_state), MetaState(phi, opt_state)), trace

        (state, meta), trace = jax.lax.scan(step, (state, meta), (data, outer))
        return state, meta, trace

    return run


def score(model: DecoderConfig, params: Params, rows: PackedRows) -> list[Float[np.ndarray, " steps"]]:
    """The logits of every step of every program, in the order of ``rows.examples``."""
    return every_step(reader(model, params), rows)


def reader(model: DecoderConfig, params: Params) -> Callable[[Batch], Any]:
    """batch -> logits."""
    return functools.partial(_forward(model), params)


@functools.cache
def _forward(model: DecoderConfig) -> Any:
    return jax.jit(functools.partial(batch_logits, model))
