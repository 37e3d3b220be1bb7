"""The two training steps as pure functions: first-order on the inner loss, and bi-level on both."""

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
from dreamprm_jax.bilevel.problem import (
    Point,
    Signal,
    mean_over_microbatches,
    optimizer_step,
    tree_norm,
    uniform,
)
from dreamprm_jax.config import MetaConfig, TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.fused import taking
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.feed import Batch, check_batch
from dreamprm_jax.training.label_table import pad_labels
from dreamprm_jax.training.losses import Loss, make_outer_loss
from dreamprm_jax.training.master_weights import with_master_weights
from dreamprm_jax.user_code import call_user_function, is_user_function

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


class LabelMove(NamedTuple):
    """Where the label table stood, and where its hypergradient pointed; for diagnosis (``evaluate_during``)."""

    label: Float[Array, " n"]  # before the step
    direction: Float[Array, " n"]  # d label / d phi times minus the hypergradient
    touched: Bool[Array, " n"]  # rows of the batch, none where phi rested


class StepResult(NamedTuple):
    """The state after a step, figures of it, and what became of the labels (None without label-side parameters)."""

    state: TrainState
    metrics: Metrics
    label_move: LabelMove | None


StepFunction = Callable[[TrainState, StepInputs], StepResult]


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimizer of theta: AdamW, or the user's own (``config.optimizer``), on master weights where they are set.

    Raises:
      DataError: where the user's function fails or gives no optimizer.
    """
    if config.optimizer == "adamw":
        optimizer = _adamw(config)
    else:
        field = "config.train.optimizer"
        if not is_user_function(config.optimizer):
            raise DataError(
                f"{field}: no optimizer {config.optimizer!r}; 'adamw', or one of your own: FILE.py:FUNCTION"
            )
        optimizer = call_user_function(config.optimizer, field, config)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise DataError(f"{field}: {config.optimizer} gave {type(optimizer).__name__}, no GradientTransformation")
    return with_master_weights(optimizer) if config.master_weights else optimizer


def _adamw(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with clipping and a linear warm-up to a cosine decay over all steps, differentiable at zero gradients."""
    schedule = learning_rate_schedule(config.learning_rate, config.warmup_steps + config.steps)
    return optax.chain(
        optimizers.clip_by_global_norm(config.clip_norm),
        optimizers.adamw(schedule, b2=config.adam_b2, weight_decay=config.weight_decay),
    )


def learning_rate_schedule(rate: float, total: int) -> optax.Schedule:
    """A linear rise over a twentieth of the steps, then a cosine fall to a tenth of the rate."""
    rise = min(max(1, total // 20), total)
    return optax.warmup_cosine_decay_schedule(0.0, rate, rise, total, 0.1 * rate)


def make_meta_optimizer(config: TrainConfig, labels: Parametrisation) -> optax.GradientTransformationExtraArgs:
    """Adam on phi; of a table only the rows of the batch move."""
    meta = config.meta
    if labels.is_table:
        return optimizers.lazy_adam(meta.learning_rate, weight_decay=meta.weight_decay)
    return optax.with_extra_args_support(optimizers.adamw(meta.learning_rate, weight_decay=meta.weight_decay))


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
    return taking(model, "reverse"), taking(model, "forward" if meta.unroll == 1 else "any")


def _with_axes(batch: Any, *sizes: int) -> Any:
    """The batch with every leading axis that ``bilevel`` expects: those of size 1 are left out of ``StepInputs``."""
    given = sum(size > 1 for size in sizes)
    return jax.tree.map(lambda leaf: leaf.reshape(*sizes, *leaf.shape[given:]), batch)


def make_plain_step(inner_loss: Loss, optimizer: optax.GradientTransformation, accumulation: int = 1) -> StepFunction:
    """One first-order step on the inner loss, over ``accumulation`` micro-batches."""

    def step(state: TrainState, inputs: StepInputs) -> StepResult:
        check_batch(inputs.batch, leading=int(accumulation > 1))
        loss_of = uniform(inner_loss, False, inputs.key is not None, inputs.frozen)

        def loss_and_gradient(batch: Batch, key: Array | None) -> tuple[Any, None]:
            (loss, _), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params, state.phi, batch, key)
            return Signal(gradient, loss), None

        batch = _with_axes(inputs.batch, accumulation)
        signal, _ = mean_over_microbatches(loss_and_gradient, batch, inputs.key)
        params, opt_state = optimizer_step(optimizer, Point(state.params, state.opt_state), signal)
        metrics = {"inner_loss": signal.loss, "gradient_norm": tree_norm(signal.gradient)}
        return StepResult(state._replace(params=params, opt_state=opt_state), metrics, None)

    return step


def make_bilevel_step(
    model: DecoderConfig,
    inner_loss: Loss,
    labels: Parametrisation,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    raw: Float[Any, " n"],
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
      raw: float32[n], the labels that phi started from.
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
    )
    meta_optimizer = make_meta_optimizer(config, labels)

    def step(state: TrainState, inputs: StepInputs) -> StepResult:
        batch, outer, do_meta = inputs.batch, inputs.outer, inputs.do_meta
        check_batch(batch, leading=(meta.unroll > 1) + (config.accumulation > 1))
        check_batch(outer, leading=int(meta.accumulation > 1))
        padded = pad_labels(raw, len(jax.tree.leaves(state.phi)[0])) if labels.is_table else raw
        batches = _with_axes(batch, meta.unroll, config.accumulation), _with_axes(outer, meta.accumulation)
        point = (state.params, state.opt_state, state.phi)
        result = meta_gradient(*point, *batches, do_meta=do_meta, rng=inputs.key, frozen=inputs.frozen)
        touched = optimizers.touched_rows(batch.label_index, len(padded), batch.label_mask) & do_meta
        updates, meta_state = meta_optimizer.update(
            result.hypergradient, state.meta_opt_state, state.phi, touched=touched
        )
        if not labels.is_table:  # a network's moments must rest, too, where there is no outer step
            updates = jax.tree.map(lambda leaf: leaf * do_meta, updates)
            meta_state = jax.tree.map(lambda new, old: jnp.where(do_meta, new, old), meta_state, state.meta_opt_state)
        phi = labels.project(optax.apply_updates(state.phi, updates))

        def label_of(phi: Any) -> Float[Array, " n"]:
            return labels.labels(phi, jnp.asarray(padded))

        downhill = jax.tree.map(jnp.negative, result.hypergradient)
        before, direction = jax.jvp(label_of, (state.phi,), (downhill,))
        move = LabelMove(*(leaf[: len(raw)] for leaf in (before, direction, touched)))
        metrics = {
            "inner_loss": result.inner_loss,
            "outer_loss": result.outer_loss,
            "gradient_norm": result.norms.inner_gradient,
            "hypergradient_norm": result.norms.hypergradient,
            "label_drift": jnp.mean(jnp.abs(label_of(phi) - padded)[: len(raw)]),
        }
        return StepResult(TrainState(result.params, result.opt_state, phi, meta_state), metrics, move)

    return step
