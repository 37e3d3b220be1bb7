"""Inputs and results of a training step, and the bi-level step as a pure function (``loop.py`` has the plain step)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.bilevel.hypergradient import make_meta_gradient
from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.config import MetaConfig, TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.fused import taking
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.feed import Batch, check_batch
from dreamprm_jax.training.label_table import LabelStart, mean_drift
from dreamprm_jax.training.losses import Loss, make_outer_loss
from dreamprm_jax.training.optimizer import make_meta_optimizer

Metrics = dict[str, Array]
META_FIGURES = ("outer_loss", "hypergradient_norm")  # 0 in steps without a meta step


class StepInputs(NamedTuple):
    """The inputs of a step, apart from the state.

    Leading axes of the batches: [B], or [M, B / M] with M micro-batches; K unrolled inner steps add an axis [K] before.
    """

    batch: Batch
    outer: Batch | None = None  # batch of the outer problem; None in first-order training
    do_meta: bool | Bool[Array, ""] = False  # whether phi is updated
    frozen: Any = None  # the frozen parameters; an argument, so that the compiled program contains no copy of them
    key: Array | None = None  # for LoRA's dropout
    labels: LabelStart | None = None  # initial labels of phi; None in first-order training


class LabelMove(NamedTuple):
    """The labels before a step and the direction of the hypergradient, for diagnosis (``evaluate_during``).

    Rows of a table after the last step are padding.
    """

    label: Float[Array, " rows"]  # before the step
    direction: Float[Array, " rows"]  # d label / d phi times minus the hypergradient
    touched: Bool[Array, " rows"]  # rows of the batch; none if phi was not updated


class StepResult(NamedTuple):
    """The state after a step, its metrics, and the change of the labels (None without label-side parameters)."""

    state: TrainState
    metrics: Metrics
    label_move: LabelMove | None


StepFunction = Callable[[TrainState, StepInputs], StepResult]


def draws_dropout(model: DecoderConfig) -> bool:
    """Whether the training losses need a key."""
    return model.lora is not None and model.lora.dropout > 0


def pass_models(model: DecoderConfig, meta: MetaConfig) -> tuple[DecoderConfig, DecoderConfig]:
    """The model for the gradients of a bi-level step, and the model for its forward-mode passes.

    Fused kernels have either a reverse mode or a forward mode. With K = 1 the forward-mode pass is not differentiated
    again by theta. ``reverse`` and K > 1 take second derivatives, which only the plain forms of attention have.
    """
    if meta.method == "reverse":
        return model, model
    return taking(model, "once"), taking(model, "forward" if meta.unroll == 1 else "any")


def reuses_forward(config: TrainConfig) -> bool:
    """Whether the tangent pass reuses the activations of the inner gradient."""
    meta = config.meta
    return meta.reuse_forward and meta.method == "mixed" and meta.unroll == 1 and config.accumulation == 1


def with_axes(batch: Any, *sizes: int) -> Any:
    """The batch with all leading axes that ``bilevel`` expects; ``StepInputs`` omits axes of size 1."""
    given = sum(size > 1 for size in sizes)
    return jax.tree.map(lambda leaf: leaf.reshape(*sizes, *leaf.shape[given:]), batch)


def make_bilevel_step(
    model: DecoderConfig,
    inner_loss: Loss,
    labels: Parametrisation,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    outer_loss: Loss | None = None,
    tangent_loss: Loss | None = None,
) -> StepFunction:
    """K inner steps on theta, and one outer step on phi with the exact hypergradient through them.

    Args:
      model: decoder of both losses.
      inner_loss: (params, phi, batch[, key]) -> scalar.
      labels: the parametrization of the labels by phi.
      optimizer: optimizer of theta.
      config: unroll, accumulation, method and the outer optimizer's settings.
      outer_loss: (params, batch[, key]) -> scalar; by default the cross-entropy of the outcomes.
      tangent_loss: the inner loss for forward-mode passes (``pass_models``); by default ``inner_loss``.
    """
    meta = config.meta
    meta_gradient = make_meta_gradient(
        inner_loss,
        outer_loss or make_outer_loss(pass_models(model, config.meta)[0]),
        optimizer,
        tangent_loss=tangent_loss,
        method=meta.method,
        has_rng=draws_dropout(model),
        reuse_forward=reuses_forward(config),
    )
    meta_optimizer = make_meta_optimizer(config, labels)

    def step(state: TrainState, inputs: StepInputs) -> StepResult:
        batch, outer, do_meta, start = inputs.batch, inputs.outer, inputs.do_meta, inputs.labels
        assert start is not None, "this step needs the labels that phi started from"
        check_batch(batch, leading=(meta.unroll > 1) + (config.accumulation > 1))
        check_batch(outer, leading=int(meta.accumulation > 1))
        batches = with_axes(batch, meta.unroll, config.accumulation), with_axes(outer, meta.accumulation)
        point = (state.params, state.opt_state, state.phi)
        result = meta_gradient(*point, *batches, do_meta=do_meta, rng=inputs.key, frozen=inputs.frozen)
        touched = optimizers.touched_rows(batch.label_index, len(start.values), batch.label_mask) & do_meta
        updates, meta_state = meta_optimizer.update(
            result.hypergradient, state.meta_opt_state, state.phi, touched=touched
        )
        if not labels.is_table:  # without an outer step, the moments of a network must not change either
            updates = jax.tree.map(lambda leaf: leaf * do_meta, updates)
            meta_state = jax.tree.map(lambda new, old: jnp.where(do_meta, new, old), meta_state, state.meta_opt_state)
        phi = labels.project(optax.apply_updates(state.phi, updates))

        def label_of(phi: Any) -> Float[Array, " rows"]:
            return labels.labels(phi, start.values)

        downhill = jax.tree.map(jnp.negative, result.hypergradient)
        label, direction = jax.jvp(label_of, (state.phi,), (downhill,))
        move = LabelMove(label, direction, touched)
        metrics = {
            "inner_loss": result.inner_loss,
            "outer_loss": result.outer_loss,
            "gradient_norm": result.norms.inner_gradient,
            "hypergradient_norm": result.norms.hypergradient,
            "label_drift": mean_drift(start, label_of(phi)),
        }
        return StepResult(TrainState(result.params, result.opt_state, phi, meta_state), metrics, move)

    return step
