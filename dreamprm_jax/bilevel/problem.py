"""The inner and outer problem in a uniform form, with all derivatives that the hypergradient methods use.

Axis names: K inner steps, M micro-batches per step, B rows per micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.bilevel.partition import PyTree, merge

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Point(NamedTuple):
    """Parameters and optimizer state of the inner problem, or their cotangents."""

    params: PyTree
    opt_state: PyTree


class Signal(NamedTuple):
    """The inputs of one optimizer step: the gradient and, for optimizers that use it, the loss."""

    gradient: PyTree
    loss: Float[Array, ""]


class Adjoint(NamedTuple):
    """Cotangents carried backward: of theta, of the state's floating leaves, and the running sum for phi."""

    params: PyTree
    state: list[Array]
    phi: PyTree


class Data(NamedTuple):
    """The batches of one call and their keys (None for losses without randomness)."""

    inner_batch: PyTree  # [K, M, B, ...]
    inner_key: Any  # [K]
    outer_batch: PyTree  # [M, B, ...]
    outer_key: Any

    def step(self, index: int | Array) -> tuple[PyTree, Any]:
        """Batch and key of one inner step."""
        return at(index, (self.inner_batch, self.inner_key))

    def steps(self, start: int, stop: int) -> tuple[PyTree, Any]:
        """Batches and keys of the inner steps from ``start`` up to ``stop``."""
        return jax.tree.map(lambda leaf: leaf[start:stop], (self.inner_batch, self.inner_key))


@dataclass(frozen=True)
class Problem:
    """Both losses as (..., batch, key) -> (scalar, aux), the optimizer, and their derivatives.

    Every derivative is linear in the loss. Accumulation is therefore the same for all: the mean over micro-batches.
    """

    inner: Callable[..., Any]
    tangent: Callable[..., Any]  # the inner loss for forward-mode passes
    outer: Callable[..., Any]
    optimizer: optax.GradientTransformation
    reads_loss: bool = False  # whether the optimizer's update depends on the loss
    evaluation_params: Callable[[PyTree, PyTree], PyTree] | None = None  # (opt_state, params) -> params for outer
    reuse_forward: bool = False  # K = 1: the tangent pass reuses the residuals of the inner gradient

    def inner_value(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any) -> Float[Array, ""]:
        """L_in."""
        return mean_over_microbatches(lambda batch, key: self.inner(params, phi, batch, key), batch, key)[0]

    def inner_gradient(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any) -> tuple[Signal, PyTree]:
        """((grad_theta L_in, L_in), aux [M, ...])."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, PyTree]:
            (loss, aux), gradient = jax.value_and_grad(self.inner, has_aux=True)(params, phi, batch, key)
            return Signal(gradient, loss), aux

        return mean_over_microbatches(one, batch, key)

    def linearized_gradient(
        self, params: PyTree, phi: PyTree, batch: PyTree, key: Any
    ) -> tuple[Signal, PyTree, Callable[[PyTree, Array | None], PyTree]]:
        """``inner_gradient`` of one micro-batch, and a ``mixed_partial`` (u, by_loss) that needs no forward pass.

        (L_in, grad_phi L_in) is linearized in theta once. The transpose of the linear map gives grad_theta L_in.
        Applied to u, the map gives the derivative of grad_phi L_in along u.
        """

        def by_phi(theta: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
            one = jax.value_and_grad(lambda phi: self.inner(theta, phi, at(0, batch), key), has_aux=True)
            (loss, aux), gradient = one(phi)
            return (loss, gradient), aux

        (loss, at_theta), along, aux = jax.linearize(by_phi, params, has_aux=True)
        ones = (jnp.ones_like(loss), jax.tree.map(jnp.zeros_like, at_theta))
        (gradient,) = jax.linear_transpose(along, params)(ones)

        def mixed_partial(u: PyTree, by_loss: Array | None) -> PyTree:
            tangent = along(u)[1]
            return tangent if by_loss is None else jax.tree.map(lambda t, g: t + by_loss * g, tangent, at_theta)

        return Signal(gradient, loss), jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], aux), mixed_partial

    def outer_gradient(self, params: PyTree, batch: PyTree, key: Any) -> tuple[Float[Array, ""], PyTree, PyTree]:
        """(loss, aux [M, ...], grad L_out)."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, PyTree]:
            (loss, aux), gradient = jax.value_and_grad(self.outer, has_aux=True)(params, batch, key)
            return (loss, gradient), aux

        (loss, gradient), aux = mean_over_microbatches(one, batch, key)
        return loss, aux, gradient

    def outer_value(self, params: PyTree, batch: PyTree, key: Any) -> tuple[Float[Array, ""], PyTree]:
        """(loss, aux [M, ...])."""
        return mean_over_microbatches(lambda batch, key: self.outer(params, batch, key), batch, key)

    def phi_gradient(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any) -> PyTree:
        """grad_phi L_in."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            return jax.grad(lambda phi: self.inner(params, phi, batch, key)[0])(phi), None

        return mean_over_microbatches(one, batch, key)[0]

    def mixed_partial(
        self, params: PyTree, phi: PyTree, batch: PyTree, key: Any, u: PyTree, by_loss: Array | None = None
    ) -> PyTree:
        """grad_phi (<grad_theta L_in, u> + by_loss L_in), computed as the gradient of a forward-mode derivative."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            def directional(phi: PyTree) -> Array:
                value, tangent = jax.jvp(lambda theta: self.tangent(theta, phi, batch, key)[0], (params,), (u,))
                return tangent if by_loss is None else tangent + by_loss * value

            return jax.grad(directional)(phi), None

        return mean_over_microbatches(one, batch, key)[0]

    def hessian_vector(
        self, params: PyTree, phi: PyTree, batch: PyTree, key: Any, u: PyTree, by_loss: Array | None = None
    ) -> tuple[PyTree, PyTree]:
        """grad_(theta, phi) (<grad_theta L_in, u> + by_loss L_in): forward over reverse, for both in one pass."""

        def one(batch: PyTree, key: Any) -> tuple[PyTree, None]:
            def gradients(theta: PyTree) -> PyTree:
                return jax.grad(lambda theta, phi: self.tangent(theta, phi, batch, key)[0], argnums=(0, 1))(theta, phi)

            value, tangent = jax.jvp(gradients, (params,), (u,))
            if by_loss is None:
                return tangent, None
            return jax.tree.map(lambda t, g: (t + by_loss * g).astype(t.dtype), tangent, value), None

        return mean_over_microbatches(one, batch, key)[0]

    def residual_bytes(self, params: PyTree, phi: PyTree, batch: PyTree, key: Any) -> int:
        """Size in bytes of the reverse-mode residuals of the tangent loss on one micro-batch, without its inputs."""

        def residuals(params: PyTree, batch: PyTree) -> list[Array]:
            return jax.tree.leaves(jax.vjp(lambda theta: self.tangent(theta, phi, batch, key)[0], params)[1])

        jaxpr = jax.make_jaxpr(residuals)(params, at(0, batch)).jaxpr
        kept = {id(var): var.aval for var in jaxpr.outvars}
        for var in (*jaxpr.invars, *jaxpr.constvars):
            kept.pop(id(var), None)
        return sum(aval.size * aval.dtype.itemsize for aval in kept.values())

    def step(self, point: Point, signal: Signal, value_fn: Callable[[PyTree], Array] | None = None) -> Point:
        """One optimizer step; see ``optimizer_step``."""
        return optimizer_step(self.optimizer, point, signal, value_fn)

    def gradient_adjoint(self, point: Point, signal: Signal, adjoint: PyTree) -> tuple[PyTree, Array | None]:
        """(u, w) = (d theta' / d (g, loss))^T adjoint, through the update alone; w is None if the loss is not read."""
        if not self.reads_loss:
            _, pull = jax.vjp(lambda gradient: self.step(point, Signal(gradient, signal.loss)).params, signal.gradient)
            return pull(adjoint)[0], None
        _, pull = jax.vjp(lambda signal: self.step(point, signal).params, signal)
        return tuple(pull(adjoint)[0])

    def step_adjoint(
        self, point: Point, signal: Signal, adjoint: PyTree, state_adjoint: list[Array]
    ) -> tuple[PyTree, list[Array], PyTree, Array | None]:
        """Pulls the adjoint of (theta_{k+1}, s_{k+1}) back to (theta_k, s_k, g_k, loss_k) as independent inputs.

        Only the floating leaves of s have cotangents; counters and keys have no derivative.
        """
        leaves, rebuild = floating_leaves(point.opt_state)

        def step(params: PyTree, leaves: list[Array], signal: Signal) -> tuple[PyTree, list[Array]]:
            after = self.step(Point(params, rebuild(leaves)), signal)
            return after.params, floating_leaves(after.opt_state)[0]

        _, pull = jax.vjp(step, point.params, leaves, signal)
        before, before_state, (u, by_loss) = pull((adjoint, state_adjoint))
        return before, before_state, u, by_loss if self.reads_loss else None

    def pull_back(
        self, point: Point, signal: Signal, phi: PyTree, batch: PyTree, key: Any, adjoint: Adjoint
    ) -> Adjoint:
        """The adjoint before an inner step, given the adjoint after it."""
        params, state, u, by_loss = self.step_adjoint(point, signal, adjoint.params, adjoint.state)
        by_gradient, by_phi = self.hessian_vector(point.params, phi, batch, key, u, by_loss)
        return Adjoint(add(params, by_gradient), state, add(adjoint.phi, by_phi))

    def replay(self, start: Point, signals: Signal, count: int | Array, until: Array | None = None) -> Point:
        """The point after ``count`` steps, from the stacked signals. This is elementwise work without a forward pass.

        If ``count`` is traced, the scan runs over all signals, and steps from ``count`` on do nothing. Unlike a loop of
        ``count`` iterations, this has a reverse mode. No step runs before the value ``until`` is computed.
        """
        total = len(signals.loss)

        def step(point: Point, index: int | Array) -> Point:
            signal = at(index, signals)
            if until is not None:  # applied per step, because on the whole stack it would make a copy
                signal = signal._replace(gradient=held_back(signal.gradient, until))
            return self.step(point, signal)

        if total == 1 and isinstance(count, int):
            return step(start, 0) if count else start

        def body(point: Point, index: Array) -> tuple[Point, None]:
            if isinstance(count, int):
                return step(point, index), None
            return jax.lax.cond(index < count, lambda p: step(p, index), lambda p: p, point), None

        return jax.lax.scan(body, start, jnp.arange(count if isinstance(count, int) else total))[0]


def optimizer_step(
    optimizer: optax.GradientTransformation,
    point: Point,
    signal: Signal,
    value_fn: Callable[[PyTree], Array] | None = None,
) -> Point:
    """theta + update(g, s, theta), and the new s. Optimizers with extra arguments get ``value`` and ``grad``.

    ``value_fn`` is the inner loss as a function of theta, for optimizers that evaluate it themselves. It is passed to
    sophia as ``obj_fn``.

    Raises:
      ValueError: if the optimizer needs ``value_fn`` and it is None.
    """
    extra: dict[str, Any] = {}
    if isinstance(optimizer, optax.GradientTransformationExtraArgs):
        extra = {"value": signal.loss, "grad": signal.gradient}
        extra |= {} if value_fn is None else {"value_fn": value_fn}
    try:
        updates, opt_state = optimizer.update(signal.gradient, point.opt_state, point.params, **extra)
    except (TypeError, ValueError) as error:
        if value_fn is not None and "obj_fn" in str(error):  # sophia; line searches reject unknown arguments
            extra["obj_fn"] = extra.pop("value_fn")
            updates, opt_state = optimizer.update(signal.gradient, point.opt_state, point.params, **extra)
            return Point(optax.apply_updates(point.params, updates), opt_state)
        if value_fn is None and ("value_fn" in str(error) or "obj_fn" in str(error)):
            raise ValueError(
                "the optimizer evaluates the inner loss itself (value_fn or obj_fn): method='mixed' cannot"
                " differentiate that; use method='reverse', or optax.lbfgs(linesearch=None)"
            ) from error
        raise
    return Point(optax.apply_updates(point.params, updates), opt_state)


class _Unread:
    """Replaces the loss to find out whether an optimizer reads it: every operation on this object fails."""


def reads_loss(optimizer: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> bool:
    """Whether the optimizer's update depends on the extra argument ``value``."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return False
    try:
        jax.eval_shape(lambda g, s, p: optimizer.update(g, s, p, value=_Unread(), grad=g), params, opt_state, params)
    except Exception:  # any error from an operation on _Unread, or from another missing argument
        return True
    return False


def uniform(loss: Callable[..., Any], has_aux: bool, has_rng: bool, frozen: PyTree | None) -> Callable[..., Any]:
    """The loss as (params, *rest, batch, key) -> (scalar, aux), with frozen leaves merged in."""

    def uniform_loss(params: PyTree, *rest: Any) -> tuple[Array, PyTree]:
        whole = params if frozen is None else merge(params, frozen)
        value = loss(whole, *(rest if has_rng else rest[:-1]))
        if isinstance(value, tuple | list) != has_aux:
            wanted = "(scalar, aux)" if has_aux else "a scalar; to return (scalar, aux) pass has_aux=True"
            shapes = jax.tree.map(jnp.shape, value)
            raise ValueError(f"has_aux={has_aux}: a loss must return {wanted}; got a value of shapes {shapes}")
        scalar, aux = value if has_aux else (value, None)
        if jnp.shape(scalar) != ():
            raise ValueError(f"a loss must return a scalar, got shape {jnp.shape(scalar)}")
        return scalar, aux

    return uniform_loss


def mean_over_microbatches(
    function: Callable[[PyTree, Any], tuple[PyTree, PyTree]], batch: PyTree, key: Any = None
) -> tuple[PyTree, PyTree]:
    """Applies ``function`` to the micro-batches one after another.

    Args:
      function: (batch [B, ...], key) -> (value, aux).
      batch: leaves [M, B, ...].
      key: split into one key per micro-batch if M > 1.

    Returns:
      (mean of the values, aux with a leading axis M). Half-precision values are summed in float32.
    """
    count = leading(batch)
    if count == 1:
        value, aux = function(at(0, batch), key)
        return value, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], aux)
    keys = None if key is None else jax.random.split(key, count)
    shapes, _ = jax.eval_shape(function, *at(0, (batch, keys)))

    def body(total: PyTree, xs: tuple[PyTree, Any]) -> tuple[PyTree, PyTree]:
        value, aux = function(*xs)
        return jax.tree.map(lambda so_far, leaf: so_far + leaf.astype(so_far.dtype), total, value), aux

    start = jax.tree.map(lambda leaf: zeros_of(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    total, aux = jax.lax.scan(body, start, (batch, keys))
    return jax.tree.map(lambda leaf, shape: (leaf / count).astype(shape.dtype), total, shapes), aux


def at(index: int | Array | None, tree: PyTree) -> PyTree:
    """Indexes every leaf along its first axis. ``None`` adds an axis in front."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def add(left: PyTree, right: PyTree) -> PyTree:
    """Adds two trees leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def zeros_of(leaf: Any, dtype: Any = None) -> Array:
    """Zeros with the shape of an abstract leaf and, on an explicit mesh, its sharding."""
    dtype = leaf.dtype if dtype is None else dtype
    sharding = getattr(leaf, "sharding", None)
    return jnp.zeros(leaf.shape, dtype) if sharding is None else jnp.zeros(leaf.shape, dtype, device=sharding)


def floating_leaves(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The floating leaves, and a function that replaces them in the tree (counters and keys are unchanged)."""
    leaves, treedef = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def rebuild(values: list[Array]) -> PyTree:
        left = iter(values)
        mixed = [next(left) if wanted else leaf for wanted, leaf in zip(floating, leaves, strict=True)]
        return jax.tree.unflatten(treedef, mixed)

    return [leaf for wanted, leaf in zip(floating, leaves, strict=True) if wanted], rebuild


def tree_norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm over all leaves, computed in at least float32."""
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in wide), start=jnp.zeros((), jnp.float32)))


def held_back(tree: PyTree, until: Float[Array, ""]) -> PyTree:
    """``tree`` times a 1 that is computed from ``until`` >= 0, so that its uses cannot be scheduled earlier.

    Compilers remove an ``optimization_barrier`` before scheduling. Without this product, the update of donated
    parameters could run before the phases that still read the old ones, and the old ones would be copied.
    """
    one = 1 - (until < 0)
    return jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), tree)


def leading(tree: PyTree) -> int:
    """Size of the first axis of the leaves; 1 for a tree without leaves."""
    leaves = jax.tree.leaves(tree)
    return leaves[0].shape[0] if leaves else 1
