"""The two losses and the optimizer in one uniform form, with every derivative that a hypergradient is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.partition import PyTree, merge


class Data(NamedTuple):
    """The batches of one call and the keys that go with them (None for losses without randomness)."""

    inner_batch: PyTree
    inner_key: Any
    outer_batch: PyTree
    outer_key: Any

    def step(self, index: int | Array) -> tuple[PyTree, Any]:
        """Batch and key of one inner step of several."""
        return at(index, (self.inner_batch, self.inner_key))


class Unrolled(NamedTuple):
    """The inner problem after K steps."""

    params: PyTree
    opt_state: PyTree
    gradients: PyTree  # g_k; leading axis K where K > 1
    loss: Float[Array, ""]  # mean over the steps
    aux: PyTree


@dataclass(frozen=True)
class Problem:
    """Both losses as (..., batch, key) -> (scalar, aux), the optimizer, and their derivatives.

    Each derivative is linear in the loss, so accumulation is one rule for all: the mean over micro-batches.
    """

    inner: Callable[..., Any]
    outer: Callable[..., Any]
    optimizer: optax.GradientTransformation
    unroll: int
    inner_accumulation: int
    outer_accumulation: int

    def inner_gradient(
        self, params: PyTree, phi: PyTree, batch: PyTree, key: Any
    ) -> tuple[Float[Array, ""], PyTree, PyTree]:
        """(loss, aux, grad_theta L_in)."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, PyTree]:
            (loss, aux), gradient = jax.value_and_grad(self.inner, has_aux=True)(params, phi, batch, key)
            return (loss, gradient), aux

        (loss, gradient), aux = _mean_over_microbatches(one, batch, key, self.inner_accumulation)
        return loss, aux, gradient

    def outer_gradient(self, params: PyTree, batch: PyTree, key: Any) -> tuple[Float[Array, ""], PyTree, PyTree]:
        """(loss, aux, grad L_out)."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, PyTree]:
            (loss, aux), gradient = jax.value_and_grad(self.outer, has_aux=True)(params, batch, key)
            return (loss, gradient), aux

        (loss, gradient), aux = _mean_over_microbatches(one, batch, key, self.outer_accumulation)
        return loss, aux, gradient

    def outer_value(self, params: PyTree, batch: PyTree, key: Any) -> tuple[Float[Array, ""], PyTree]:
        """(loss, aux)."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, PyTree]:
            return self.outer(params, batch, key)

        return _mean_over_microbatches(one, batch, key, self.outer_accumulation)

    def phi_gradient(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any) -> PyTree:
        """grad_phi L_in."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            return jax.grad(lambda phi: self.inner(params, phi, batch, key)[0])(phi), None

        return _mean_over_microbatches(one, batch, key, self.inner_accumulation)[0]

    def mixed_partial(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any, u: PyTree) -> PyTree:
        """grad_phi <grad_theta L_in, u>, as the gradient of a forward-mode derivative."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            def directional(phi: PyTree) -> Array:
                return jax.jvp(lambda theta: self.inner(theta, phi, batch, key)[0], (params,), (u,))[1]

            return jax.grad(directional)(phi), None

        return _mean_over_microbatches(one, batch, key, self.inner_accumulation)[0]

    def hessian_vector(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any, u: PyTree) -> tuple[PyTree, PyTree]:
        """grad_(theta, phi) <grad_theta L_in, u>, forward over reverse: both parts in one pass."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            def gradients(theta: PyTree) -> PyTree:
                return jax.grad(lambda theta, phi: self.inner(theta, phi, batch, key)[0], argnums=(0, 1))(theta, phi)

            return jax.jvp(gradients, (params,), (u,))[1], None

        return _mean_over_microbatches(one, batch, key, self.inner_accumulation)[0]

    def step(self, params: PyTree, opt_state: PyTree, gradient: PyTree) -> tuple[PyTree, PyTree]:
        """theta + update(g, s, theta), and the new s."""
        updates, opt_state = self.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def gradient_adjoint(self, params: PyTree, opt_state: PyTree, gradient: PyTree, adjoint: PyTree) -> PyTree:
        """u = (d theta' / d g)^T adjoint: through the optimizer's update alone."""
        _, pull = jax.vjp(lambda gradient: self.step(params, opt_state, gradient)[0], gradient)
        return pull(adjoint)[0]

    def step_adjoint(
        self, params: PyTree, opt_state: PyTree, gradient: PyTree, adjoint: PyTree, state_adjoint: list[Array]
    ) -> tuple[PyTree, list[Array], PyTree]:
        """Pulls the adjoint of (theta_{k+1}, s_{k+1}) back to (theta_k, s_k, g_k), each taken as independent.

        s counts by its floating leaves: counters and keys have no derivative.
        """
        leaves, rebuild = floating_leaves(opt_state)

        def step(params: PyTree, leaves: list[Array], gradient: PyTree) -> tuple[PyTree, list[Array]]:
            new_params, new_state = self.step(params, rebuild(leaves), gradient)
            return new_params, floating_leaves(new_state)[0]

        _, pull = jax.vjp(step, params, leaves, gradient)
        return pull((adjoint, state_adjoint))

    def unrolled(self, params: PyTree, opt_state: PyTree, phi: PyTree, data: Data) -> Unrolled:
        """K inner steps."""

        def one(carry: tuple[PyTree, PyTree], step_data: tuple[PyTree, Any]) -> tuple[tuple[PyTree, PyTree], PyTree]:
            loss, aux, gradient = self.inner_gradient(carry[0], phi, *step_data)
            return self.step(*carry, gradient), (gradient, loss, aux)

        start, step_data = (params, opt_state), (data.inner_batch, data.inner_key)
        end, (gradients, loss, aux) = one(start, step_data) if self.unroll == 1 else jax.lax.scan(one, start, step_data)
        return Unrolled(*end, gradients, jnp.mean(loss), aux)

    def end(self, params: PyTree, opt_state: PyTree, gradients: PyTree) -> tuple[PyTree, PyTree]:
        """(theta_K, s_K) from the start and the gradients."""
        if self.unroll == 1:
            return self.step(params, opt_state, gradients)
        return self.replay(params, opt_state, gradients, self.unroll)

    def replay(self, params: PyTree, opt_state: PyTree, gradients: PyTree, count: int | Array) -> tuple[PyTree, PyTree]:
        """(theta_count, s_count) from the start and the stacked gradients: elementwise work, no forward pass."""

        def body(index: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            return self.step(*carry, at(index, gradients))

        return jax.lax.fori_loop(0, count, body, (params, opt_state))


def uniform(loss: Callable[..., Any], has_aux: bool, has_rng: bool, frozen: PyTree | None) -> Callable[..., Any]:
    """The loss as (params, *rest, batch, key) -> (scalar, aux), with frozen leaves merged in."""

    def uniform_loss(params: PyTree, *rest: Any) -> tuple[Array, PyTree]:
        whole = params if frozen is None else merge(params, frozen)
        value = loss(whole, *(rest if has_rng else rest[:-1]))
        scalar, aux = value if has_aux else (value, None)
        if jnp.shape(scalar) != ():
            raise ValueError(f"a loss must return a scalar, got shape {jnp.shape(scalar)}")
        return scalar, aux

    return uniform_loss


def at(index: int | Array, tree: PyTree) -> PyTree:
    """One entry along every leaf's first axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def floating_leaves(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The floating leaves, and the function that puts others in their place (counters and keys stay)."""
    leaves, treedef = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def rebuild(values: list[Array]) -> PyTree:
        left = iter(values)
        mixed = [next(left) if wanted else leaf for wanted, leaf in zip(floating, leaves, strict=True)]
        return jax.tree.unflatten(treedef, mixed)

    return [leaf for wanted, leaf in zip(floating, leaves, strict=True) if wanted], rebuild


def tree_norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm over all leaves, in float32 or wider."""
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in wide), start=jnp.zeros((), jnp.float32)))


def _mean_over_microbatches(
    function: Callable[[PyTree, Any], tuple[PyTree, PyTree]], batch: PyTree, key: Any, count: int
) -> tuple[PyTree, PyTree]:
    """(mean over micro-batches of the first output, stack of the second). One after the other, in a scan.

    Half-precision values are summed in float32.
    """
    if count == 1:
        return function(batch, key)
    keys = None if key is None else jax.random.split(key, count)
    shapes, _ = jax.eval_shape(function, *at(0, (batch, keys)))

    def body(total: PyTree, xs: tuple[PyTree, Any]) -> tuple[PyTree, PyTree]:
        value, aux = function(*xs)
        return jax.tree.map(lambda so_far, leaf: so_far + leaf.astype(so_far.dtype), total, value), aux

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    total, aux = jax.lax.scan(body, start, (batch, keys))
    return jax.tree.map(lambda leaf, shape: (leaf / count).astype(shape.dtype), total, shapes), aux
