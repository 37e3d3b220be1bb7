"""What a training step reads and gives, and the bi-level step as a pure function (the plain one: ``loop.py``)."""

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
META_FIGURES = ("outer_loss", "hypergradient_norm")  # 0 where phi rests: the outer problem is not looked at


class StepInputs(NamedTuple):
    """What a step reads beside the state.

    Leading axes of the batches: [B], with M micro-batches [M, B / M], and K unrolled inner steps before both.
    """

    batch: Batch
    outer: Batch | None = None  # of the outer problem; None in first-order training
    do_meta: bool | Bool[Array, ""] = False  # whether phi moves
    frozen: Any = None  # the other part of ``state.params``; an argument, so that the program holds no copy of it
    key: Array | None = None  # of LoRA's dropout
    labels: LabelStart | None = None  # where phi started; None in first-order training


class LabelMove(NamedTuple):
    """Where the label table stood, and where its hypergradient pointed; for diagnosis (``evaluate_during``).

    Of a table the rows after the last step are padding.
    """

    label: Float[Array, " rows"]  # before the step
    direction: Float[Array, " rows"]  # d label / d phi times minus the hypergradient
    touched: Bool[Array, " rows"]  # rows of the batch, none where phi rested


class StepResult(NamedTuple):
    """The state after a step, figures of it, and what became of the labels (None without label-side parameters)."""

    state: TrainState
    metrics: Metrics
    label_move: LabelMove | None


StepFunction = Callable[[TrainState, StepInputs], StepResult]


def draws_dropout(model: DecoderConfig) -> bool:
    """Whether the training losses need a key."""
    return model.lora is not None and model.lora.dropout > 0


def pass_models(model: DecoderConfig, meta: MetaConfig) -> tuple[DecoderConfig, DecoderConfig]:
    """The model as the gradients of a bi-level step take it, and as its forward-mode passes do.

    Fused kernels have a reverse or a forward mode. With K = 1 the forward-mode pass is not differentiated again by
    theta; ``reverse`` and K > 1 take derivatives of derivatives, which only the plain forms of attention have.
    """
    if meta.method == "reverse":
        return model, model
    return taking(model, "once"), taking(model, "forward" if meta.unroll == 1 else "any")


def reuses_forward(config: TrainConfig) -> bool:
    """Whether the tangent pass reads the activations of the inner gradient."""
    meta = config.meta
    return meta.reuse_forward and meta.method == "mixed" and meta.unroll == 1 and config.accumulation == 1


def with_axes(batch: Any, *sizes: int) -> Any:
    """The batch with every leading axis that ``bilevel`` expects: those of size 1 are left out of ``StepInputs``."""
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
      model: of both losses.
      inner_loss: (params, phi, batch[, key]) -> scalar.
      labels: what phi means.
      optimizer: of theta.
      config: unroll, accumulation, method and the outer optimizer's settings.
      outer_loss: (params, batch[, key]) -> scalar; by default the cross-entropy of the outcomes.
      tangent_loss: ``inner_loss`` as the forward-mode passes take it (``pass_models``); by default itself.
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
        if not labels.is_table:  # a network's moments must rest, too, where there is no outer step
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
