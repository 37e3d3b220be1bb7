"""Optimizers for the two levels.

Inner level: Adam and gradient clipping with derivatives that exist everywhere, also at gradients of exactly zero. Outer
level: Adam for tables, which updates a row only if it was in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.bilevel.partition import PyTree

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """optax.scale_by_adam with a finite derivative at zero gradients.

    The update m / (sqrt(v) + eps) has a derivative at m = v = 0, but the chain rule multiplies by sqrt'(0) = inf and
    gives nan. This happens in embedding rows that no batch has used yet, and in LoRA's A while B is still zero. Updates
    and state equal those of optax. The remedy of optax, ``eps_root``, changes the update: it halves the slope at
    eps_root = eps^2.

    Raises:
      ValueError: if eps is not positive.
    """
    if eps <= 0:
        raise ValueError(f"eps={eps}: must be positive, or the update has no derivative at zero gradients")

    direction = _adam_direction(b1, b2, eps)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(
        updates: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(g), updates, state.nu)

        def one(gradient: Array, m: Array, v: Array) -> Array:
            return direction(gradient, m, v, (1 - b1**count).astype(m.dtype), (1 - b2**count).astype(v.dtype))

        return jax.tree.map(one, updates, state.mu, state.nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def adamw(
    learning_rate: float | optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
) -> optax.GradientTransformation:
    """``optax.adamw``, with the same defaults and a finite derivative at zero gradients."""
    return optax.chain(
        scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm`` with a finite derivative if the whole gradient is zero."""

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(updates)]
        # max(norm, max_norm) is constant below max_norm, so no derivative reaches the square root of zero.
        scale = max_norm / jnp.sqrt(jnp.maximum(sum(squares, start=jnp.zeros(())), max_norm**2))
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _adam_direction(b1: float, b2: float, eps: float) -> Callable[..., Array]:
    """(g, m, v, c1, c2) -> m' / c1 / (sqrt(v' / c2) + eps), where m' and v' are the moments after g.

    The derivative is given in closed form, as one elementwise factor per input, computed from g, m and v alone. The
    compiler can then compute it where it is used. With the chain rule it would keep the square root, the quotient and
    other values, each as large as the parameters, during the whole optimizer phase of the hypergradient.
    """

    def parts(gradient: Array, m: Array, v: Array, c1: Array, c2: Array) -> tuple[Array, Array, Array]:
        root = jnp.sqrt((b2 * v + (1 - b2) * jnp.square(gradient)) / c2)
        return (b1 * m + (1 - b1) * gradient) / c1 / (root + eps), root + eps, root

    @jax.custom_jvp
    def direction(gradient: Array, m: Array, v: Array, c1: Array, c2: Array) -> Array:
        return parts(gradient, m, v, c1, c2)[0]

    @direction.defjvp
    def derivative(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        gradient, _, _, c1, c2 = primals
        value, denominator, root = parts(*primals)
        # d root / d v' = 1 / (2 c2 root). At v' = 0 only m' contributes to the true slope.
        halved = jnp.where(root > 0, 0.5 / (c2 * jnp.where(root > 0, root, 1.0)), 0.0)
        by_gradient = ((1 - b1) / c1 - value * halved * 2 * (1 - b2) * gradient) / denominator
        by_m, by_v = b1 / c1 / denominator, -value * halved * b2 / denominator
        return value, by_gradient * tangents[0] + by_m * tangents[1] + by_v * tangents[2]

    return direction


class LazyAdamState(NamedTuple):
    """Adam's moments with one step count per row, so that bias correction uses the row's own number of updates."""

    count: PyTree  # int32[n] for a leaf [n, ...]
    mu: PyTree
    nu: PyTree


def touched_rows(
    indices: Int[Array, "*batch"], size: int, valid: Bool[Array, "*batch"] | None = None
) -> Bool[Array, " size"]:
    """Which of ``size`` table rows occur among the valid indices of a batch; bool[size]."""
    targets = indices if valid is None else jnp.where(valid, indices, size)
    return jnp.zeros(size, bool).at[targets.reshape(-1)].set(True, mode="drop")


def lazy_adam(
    learning_rate: float | optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam(W) for tables: a row and its moments are updated, and the row is decayed, only if it was in the batch.

    With dense Adam (arXiv 1412.6980) a row keeps drifting on its old momentum through all batches that do not contain
    it, and zeros dilute its second moment. ``update`` takes the extra argument ``touched``, the bool[n] from
    ``touched_rows``. Every leaf of the parameters must have n rows. A schedule is evaluated at each row's own count.

    Raises:
      ValueError: from ``update``, if params is None or if a leaf and ``touched`` differ in their number of rows.
    """

    def init(params: PyTree) -> LazyAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LazyAdamState(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[0], jnp.int32), params), zeros, zeros)

    def update(
        updates: PyTree, state: LazyAdamState, params: PyTree | None = None, *, touched: Bool[Array, " n"], **_: object
    ) -> tuple[PyTree, LazyAdamState]:
        if params is None:
            raise ValueError("lazy_adam: update needs params")

        def row(gradient: Array, param: Array, count: Array, mu: Array, nu: Array) -> tuple[Array, ...]:
            if gradient.shape[0] != touched.shape[0]:
                raise ValueError(f"lazy_adam: a leaf has {gradient.shape[0]} rows, touched {touched.shape[0]}")
            columns = (slice(None),) + (None,) * (gradient.ndim - 1)
            mask = touched[columns]
            count = count + touched
            mu = jnp.where(mask, b1 * mu + (1 - b1) * gradient, mu)
            nu = jnp.where(mask, b2 * nu + (1 - b2) * jnp.square(gradient), nu)
            # A row that was never touched has count 0; its (masked) bias correction must not divide by zero.
            power = jnp.maximum(count, 1)[columns].astype(mu.dtype)
            direction = (mu / (1 - b1**power)) / (jnp.sqrt(nu / (1 - b2**power)) + eps)
            rate = learning_rate(power - 1) if callable(learning_rate) else learning_rate
            step = -rate * (direction + weight_decay * param)
            return jnp.where(mask, step, 0.0).astype(param.dtype), count, mu, nu

        rows = jax.tree.map(row, updates, params, state.count, state.mu, state.nu)
        new, count, mu, nu = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0, 0, 0)), rows)
        return new, LazyAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)
