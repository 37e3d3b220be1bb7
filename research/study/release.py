"""The training of the released code (ruz048/DreamPRM-Code) in JAX: the warm-up, and betty's engine as the second stage.

An iteration is a micro-batch of one sample. After ``accumulation`` iterations there is one update of theta: the mean
gradient is clipped, torch's Adam adds L2, and the learning rate rises and falls linearly over *iterations*. After each
update, one hypergradient ("darts") is computed: a finite difference, at the new theta, of the loss of only the last
training sample, along the gradient of one outer sample. After ``accumulation`` hypergradients their mean is used for
one update of the weights by a dense Adam with L2, which also changes weights without a sample. So 10,000 iterations
are 1,250 updates of theta, 1,250 hypergradients of one sample each, and 156 updates of the weights. Weights are
clipped to [0, 2] when they are used, but stored without clipping. A test compares all of this with betty itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.problem import tree_norm

MAXIMUM = 2.0  # largest weight
RADIUS = 0.01  # betty's darts_alpha
SMOOTHING = 0.1  # label smoothing of step labels; outcomes are not smoothed in the outer loss

InnerLoss = Callable[[Any, Array, Any], Float[Array, ""]]  # (theta, weights, sample)
OuterLoss = Callable[[Any, Any], Float[Array, ""]]  # (theta, sample)


@dataclass(frozen=True)
class ReleaseSettings:
    """The settings in ``run_train_eval.sh``, and the defaults of the scripts that it calls."""

    iterations: int = 10_000
    accumulation: int = 8
    rising: int = 250  # number of iterations in which the learning rate rises linearly
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    meta_learning_rate: float = 1e-2
    meta_weight_decay: float = 0.002
    learn_weights: bool = True  # False is the script's --baseline: the same training with all weights at 1


def adam_with_l2(weight_decay: float) -> optax.GradientTransformation:
    """The update direction of ``torch.optim.Adam``, which adds the decay to the gradient and thereby to the moments."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())


def linear_rate(settings: ReleaseSettings, iteration: Array) -> Float[Array, ""]:
    """The learning rate of an update in ``iteration``, counted from 1, after ``iteration - 1`` scheduler steps."""
    done = iteration - 1.0
    rising, total = float(settings.rising), float(settings.iterations)
    fall = (total - done) / max(1.0, total - rising)
    return settings.learning_rate * jnp.where(done < rising, done / max(1.0, rising), jnp.maximum(fall, 0.0))


def clipped(gradient: Any, norm: float) -> Any:
    """Clips the global norm like ``torch.nn.utils.clip_grad_norm_``."""
    scale = jnp.minimum(norm / (tree_norm(gradient) + 1e-6), 1.0)
    return jax.tree.map(lambda leaf: leaf * scale, gradient)


def second_stage(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    theta: Any,
    weights: Float[Array, " n"],
    inner: Any,
    outer: Any,
    settings: ReleaseSettings,
) -> tuple[Any, Float[Array, " n"]]:
    """Trains theta and the weights with fresh optimizers. Meant to be called inside jit.

    Args:
      inner_loss: Loss of one training sample; it reads the weights through ``clip_weights``.
      outer_loss: Loss of one outer sample.
      theta: Initial parameters, the result of ``warm_up``.
      weights: Initial weights, one for each training sample, usually 1.
      inner: Training samples, leaves [iterations / accumulation, accumulation, ...].
      outer: Outer samples, leaves [iterations / accumulation, ...].
      settings: Rates and counts.

    Returns:
      theta and the weights; the weights are not clipped.
    """
    adam, meta_adam = adam_with_l2(settings.weight_decay), adam_with_l2(settings.meta_weight_decay)
    every = settings.accumulation

    def hypergradient(theta: Any, weights: Array, last: Any, outer_sample: Any) -> Array:
        v = jax.grad(outer_loss)(theta, outer_sample)
        epsilon = RADIUS / (tree_norm(v) + 1e-15)

        def gradient_at(sign: float) -> Array:
            moved = jax.tree.map(lambda leaf, d: leaf + sign * epsilon * d, theta, v)
            return jax.grad(inner_loss, argnums=1)(moved, weights, last)

        return (gradient_at(-1.0) - gradient_at(1.0)) / (2.0 * epsilon)

    def update(carry: Any, here: Any) -> Any:
        theta, state, weights, meta_state, summed = carry
        number, samples, outer_sample = here
        gradients = jax.vmap(jax.grad(inner_loss), (None, None, 0))(theta, weights, samples)
        gradient = clipped(jax.tree.map(lambda leaf: leaf.mean(axis=0), gradients), settings.clip_norm)
        direction, state = adam.update(gradient, state, theta)
        rate = linear_rate(settings, number * every)
        theta = jax.tree.map(lambda leaf, d: leaf - rate * d, theta, direction)
        if settings.learn_weights:
            last = jax.tree.map(lambda leaf: leaf[-1], samples)
            summed = summed + hypergradient(theta, weights, last, outer_sample) / every
            meta_direction, moved_state = meta_adam.update(summed, meta_state, weights)
            now = number % every == 0
            weights = jnp.where(now, weights - settings.meta_learning_rate * meta_direction, weights)
            meta_state = jax.tree.map(lambda new, old: jnp.where(now, new, old), moved_state, meta_state)
            summed = jnp.where(now, 0.0, summed)
        return (theta, state, weights, meta_state, summed), None

    updates = jax.tree.leaves(outer)[0].shape[0]
    start = (theta, adam.init(theta), weights, meta_adam.init(weights), jnp.zeros_like(weights))
    end, _ = jax.lax.scan(update, start, (jnp.arange(1, updates + 1), inner, outer))
    return end[0], end[2]


def clip_weights(weights: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The weights clipped to [0, 2], as the released table returns them."""
    return jnp.clip(weights, 0.0, MAXIMUM)


def warm_up(loss: Callable[[Any, Any], Float[Array, ""]], theta: Any, batches: Any, settings: ReleaseSettings) -> Any:
    """The first stage: training on batches with torch's Adam, L2, and a linearly decreasing learning rate.

    Args:
      loss: Mean loss of a batch.
      theta: Initial parameters.
      batches: Batches with leaves [updates, ...].
      settings: Settings with learning rate, weight decay and clipping norm.
    """
    adam = adam_with_l2(settings.weight_decay)
    updates = jax.tree.leaves(batches)[0].shape[0]

    def update(carry: Any, here: Any) -> Any:
        theta, state = carry
        number, batch = here
        gradient = clipped(jax.grad(loss)(theta, batch), settings.clip_norm)
        direction, state = adam.update(gradient, state, theta)
        rate = settings.learning_rate * (1.0 - number / updates)
        return (jax.tree.map(lambda leaf, d: leaf - rate * d, theta, direction), state), None

    return jax.lax.scan(update, (theta, adam.init(theta)), (jnp.arange(updates), batches))[0][0]
