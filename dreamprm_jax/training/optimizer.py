"""The optimizers of the inner and the outer problem, made from the settings."""

from __future__ import annotations

from typing import Any

import optax

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.master_weights import with_master_weights
from dreamprm_jax.user_code import call_user_function, is_user_function


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimizer of theta: AdamW or the user's own (``config.optimizer``), on master weights if these are enabled.

    Raises:
      DataError: if the user's function fails or returns no optimizer.
    """
    if is_user_function(config.optimizer):
        field = "config.train.optimizer"
        optimizer = call_user_function(config.optimizer, field, config)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise DataError(f"{field}: {config.optimizer} gave {type(optimizer).__name__}, no GradientTransformation")
    else:
        optimizer = _adamw(config)
    return with_master_weights(optimizer) if config.master_weights else optimizer


def _adamw(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with gradient clipping, differentiable at zero gradients."""
    return optax.chain(
        optimizers.clip_by_global_norm(config.clip_norm),
        optimizers.adamw(run_schedule(config), b2=config.adam_b2, weight_decay=config.weight_decay),
    )


def run_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate of ``adamw`` over all steps of an arm, its warm-up included."""
    return learning_rate_schedule(config.learning_rate, config.warmup_steps + config.steps)


def learning_rate_schedule(rate: float, total: int) -> optax.Schedule:
    """A linear warm-up over a twentieth of the steps, then a cosine decay to a tenth of the rate."""
    rise = min(max(1, total // 20), total - 1)
    return optax.warmup_cosine_decay_schedule(0.0, rate, rise, total, 0.1 * rate)


def learning_rate(config: TrainConfig, opt_state: Any, step: int) -> float | None:
    """The learning rate of one step. For a user's optimizer, that of ``optax.inject_hyperparams``, or None."""
    if not is_user_function(config.optimizer):
        return float(run_schedule(config)(step))
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    return float(found[0][1]) if found else None


def make_meta_optimizer(config: TrainConfig, labels: Parametrisation) -> optax.GradientTransformationExtraArgs:
    """Adam on phi. If phi is a table, only the rows of the batch are updated."""
    meta = config.meta
    if labels.is_table:
        return optimizers.lazy_adam(meta.learning_rate, weight_decay=meta.weight_decay)
    return optax.with_extra_args_support(optimizers.adamw(meta.learning_rate, weight_decay=meta.weight_decay))
