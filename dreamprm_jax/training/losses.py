"""The inner and outer losses of DreamPRM-Code as pure functions.

With LoRA dropout, the training losses take a key as their last argument; without a key there is no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import step_logits
from dreamprm_jax.training.feed import Batch

Loss = Callable[..., Float[Array, ""]]
Targets = Callable[[Array, Batch], Array]  # (logits [B, S], batch) -> targets [B, S]
LossKind = Literal["bce", "mse", "gce"]
GCE_Q = 0.7  # of arXiv 1805.07836


def batch_logits(
    model: DecoderConfig, params: Any, batch: Batch, dropout_key: Array | None = None
) -> Float[Array, "B S"]:
    """Logits of every step of every program."""
    inputs = (batch.tokens, batch.positions, batch.segments, batch.step_index)
    return step_logits(model, params, *inputs, dropout_key=dropout_key)


def elementwise_loss(
    kind: LossKind, logits: Float[Array, "*shape"], targets: Float[Array, "*shape"], q: float = GCE_Q
) -> Float[Array, "*shape"]:
    """The loss of each logit against its target in [0, 1], with p = sigmoid(logit).

    ``bce``: -t log p - (1 - t) log(1 - p). ``mse``: (p - t)^2. ``gce``: t (1 - p^q) / q + (1 - t) (1 - (1 - p)^q) / q,
    the generalized cross-entropy (arXiv 1805.07836): bce as q goes to 0, the mean absolute error at q = 1. Labels that
    are unlikely under the model have less weight.
    """
    if kind == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, targets)
    if kind == "mse":
        return jnp.square(jax.nn.sigmoid(logits) - targets)
    # -expm1(q log p) = 1 - p^q, exact for small q, with derivatives that stay finite at any logit
    right, wrong = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(targets * jnp.expm1(q * right) + (1.0 - targets) * jnp.expm1(q * wrong)) / q


def step_loss(losses: Float[Array, "B S"], weights: Float[Array, "B S"], batch: Batch) -> Float[Array, ""]:
    """Weighted losses of the noisy step labels, mean over the labeled steps."""
    return jnp.sum(jnp.where(batch.label_mask, weights * losses, 0.0)) / jnp.sum(batch.label_share)


def outcome_loss(logits: Float[Array, "B S"], batch: Batch, kind: LossKind = "bce") -> Float[Array, ""]:
    """Loss of the last step's logit against the program's outcome, mean over programs."""
    losses = elementwise_loss(kind, logits, batch.outcome)
    return jnp.sum(jnp.where(batch.outcome_mask, losses, 0.0)) / jnp.sum(batch.outcome_share)


def _outcome_kind(kind: LossKind) -> LossKind:
    """The loss of outcomes: bce instead of gce, which is for noisy labels, because outcomes are exact."""
    return "bce" if kind == "gce" else kind


def make_outcome_loss(model: DecoderConfig, kind: LossKind = "bce") -> Loss:
    """(params, phi, batch[, key]) -> outcome loss, for training an outcome reward model. phi is ignored."""

    def loss(params: Any, phi: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        return outcome_loss(batch_logits(model, params, batch, key), batch, _outcome_kind(kind))

    return loss


def make_inner_loss(
    model: DecoderConfig,
    labels: Parametrisation | None,
    outcome_weight: float,
    kind: LossKind = "bce",
    q: float = GCE_Q,
    infer: Targets | None = None,
) -> Loss:
    """L_in(theta, phi, batch[, key]) = step loss with targets and weights of phi + outcome_weight * outcome loss.

    Without a parametrisation phi is ignored, and the targets are the labels in the batch or, with ``infer``, the
    targets that it computes from them and from the logits. No gradient flows through ``infer``.
    """

    def inner_loss(params: Any, phi: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        logits = batch_logits(model, params, batch, key)
        if labels is None:
            targets = batch.raw if infer is None else infer(jax.lax.stop_gradient(logits), batch)
            weights = jnp.ones_like(targets)
        else:
            targets, weights = labels.targets_and_weights(phi, batch.label_index, batch.raw)
        steps = step_loss(elementwise_loss(kind, logits, targets, q), weights, batch)
        return steps + outcome_weight * outcome_loss(logits, batch, _outcome_kind(kind))

    return inner_loss


def make_outer_loss(model: DecoderConfig, kind: LossKind = "bce") -> Loss:
    """L_out(theta, batch[, key]): the outcome loss on whole programs of the meta set, always without dropout."""

    def outer_loss(params: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        return outcome_loss(batch_logits(model, params, batch), batch, _outcome_kind(kind))

    return outer_loss
