"""The inner and outer losses of DreamPRM-Code as pure functions.

The training losses take a key as their last argument where LoRA dropout is on; without one nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import step_logits
from dreamprm_jax.training.feed import Batch

Loss = Callable[..., Float[Array, ""]]


def batch_logits(
    model: DecoderConfig, params: Any, batch: Batch, dropout_key: Array | None = None
) -> Float[Array, "B S"]:
    """Logits of every step of every program."""
    inputs = (batch.tokens, batch.positions, batch.segments, batch.step_index)
    return step_logits(model, params, *inputs, dropout_key=dropout_key)


def step_loss(
    logits: Float[Array, "B S"], targets: Float[Array, "B S"], weights: Float[Array, "B S"], batch: Batch
) -> Float[Array, ""]:
    """Weighted binary cross-entropy of the noisy step labels, mean over the labelled steps."""
    losses = weights * optax.sigmoid_binary_cross_entropy(logits, targets)
    return jnp.sum(jnp.where(batch.label_mask, losses, 0.0)) / jnp.sum(batch.label_share)


def outcome_loss(logits: Float[Array, "B S"], batch: Batch) -> Float[Array, ""]:
    """Binary cross-entropy of the last step's logit against the program's outcome, mean over programs."""
    losses = optax.sigmoid_binary_cross_entropy(logits, batch.outcome)
    return jnp.sum(jnp.where(batch.outcome_mask, losses, 0.0)) / jnp.sum(batch.outcome_share)


def make_outcome_loss(model: DecoderConfig) -> Loss:
    """(params, phi, batch[, key]) -> the outcome loss alone: training of an outcome reward model. phi is ignored."""

    def loss(params: Any, phi: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        return outcome_loss(batch_logits(model, params, batch, key), batch)

    return loss


def make_inner_loss(model: DecoderConfig, labels: Parametrisation | None, outcome_weight: float) -> Loss:
    """L_in(theta, phi, batch[, key]) = step loss with targets and weights of phi + outcome_weight * outcome loss.

    Without a parametrisation the targets are the raw labels, and phi is ignored.
    """

    def inner_loss(params: Any, phi: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        logits = batch_logits(model, params, batch, key)
        if labels is None:
            targets, weights = batch.raw, jnp.ones_like(batch.raw)
        else:
            targets, weights = labels.targets_and_weights(phi, batch.label_index, batch.raw)
        return step_loss(logits, targets, weights, batch) + outcome_weight * outcome_loss(logits, batch)

    return inner_loss


def make_outer_loss(model: DecoderConfig) -> Loss:
    """L_out(theta, batch[, key]): the outcome loss on whole programs of the meta set, never with dropout."""

    def outer_loss(params: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        return outcome_loss(batch_logits(model, params, batch), batch)

    return outer_loss
