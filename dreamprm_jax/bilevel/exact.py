"""The two exact methods: mixed mode in the memory of a plain step, and reverse mode through everything.

For K = 1, with v = grad L_out(theta'): u = (d theta' / d g)^T v is a vjp of the optimizer alone, and the hypergradient
is grad_phi of jvp(L_in(., phi), theta, u): one forward-mode pass, as phi enters at the end of the loss. For K > 1 the
adjoint of (theta, s) is carried backward with Hessian-vector products (forward over reverse). docs/bilevel.md derives
it. Mixed-mode differentiation of unrolled meta-gradients: MixFlow-MG, arXiv 2505.00793.

The K steps are cut into segments. Within a segment the signals (the gradients) are stored: replaying the optimizer on
them restores any (theta_k, s_k), for one tree a step where theta, s and g would be four with Adam. Of every segment but
the first, (theta, s) at its start is stored; its signals are computed again when the backward pass reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import (
    Adjoint,
    Data,
    Point,
    Problem,
    Signal,
    add,
    at,
    floating_leaves,
    tree_norm,
    zeros_of,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

DoMeta = Any  # bool | Bool[Array, ""]
STORE_ALL = 4  # up to this K every gradient is stored


class Found(NamedTuple):
    """What a method finds; ``make_meta_gradient`` turns it into its result."""

    end: Point
    hypergradient: PyTree
    inner_loss: Float[Array, ""]
    outer_loss: Float[Array, ""]
    inner_aux: PyTree
    outer_aux: PyTree
    inner_norm: Float[Array, ""]
    v: PyTree
    start_gradient: Point | None = None
    solution: PyTree | None = None


class Forward(NamedTuple):
    """The K inner steps, and what is stored of them."""

    end: Point
    signals: Signal | None  # [K] where there is one segment
    checkpoints: Point | None  # at the start of every segment but the first, where there are several
    loss: Float[Array, ""]  # mean over the steps
    aux: PyTree  # [K, M, ...]
    norm: Float[Array, ""]  # of the last gradient


@dataclass(frozen=True)
class Gate:
    """Runs a phase behind ``lax.cond``: zeros where it is not wanted, nan where the inner loss is not finite."""

    do_meta: bool | Bool[Array, ""]
    loss: Float[Array, ""]

    def run(self, phase: Callable[[], Any]) -> Any:
        """The phase's value, or a fill of its shapes and dtypes."""
        shapes = jax.eval_shape(phase)

        def fill() -> Any:
            def one(leaf: jax.ShapeDtypeStruct) -> Array:
                zeros = zeros_of(leaf)
                return jnp.where(self.do_meta, jnp.nan, zeros) if jnp.issubdtype(leaf.dtype, jnp.floating) else zeros

            return jax.tree.map(one, shapes)

        if self.do_meta is False:
            return jax.tree.map(zeros_of, shapes)
        return jax.lax.cond(jnp.logical_and(self.do_meta, jnp.isfinite(self.loss)), phase, fill)


# ---------------------------------------------------------------- mixed mode


def mixed(
    problem: Problem,
    start: Point,
    phi: PyTree,
    data: Data,
    do_meta: DoMeta,
    end_gradient: Point | None,
    wants_start: bool,
    segment: int | None,
) -> Found:
    """Inner update, outer gradient, backward pass: each its own phase."""
    unroll = _count(data.inner_batch)
    length = min(unroll, segment or default_segment(unroll, start))
    forward = run_forward(problem, start, phi, data, length)
    gate = Gate(do_meta, forward.loss)
    remake = end_maker(problem, start, forward)
    outer_loss, outer_aux, v, state_adjoint = gate.run(lambda: outer_phase(problem, remake(), data))
    adjoint = v
    if end_gradient is not None:
        adjoint = add(v, end_gradient.params)
        given = state_leaves(end_gradient.opt_state, start.opt_state)
        state_adjoint = given if state_adjoint is None else add(state_adjoint, given)
    if unroll == 1 and state_adjoint is None and not wants_start:
        # Phases of their own: g and v need not outlive the optimizer's.
        signal, (batch, key) = at(0, forward.signals), data.step(0)
        u, by_loss = gate.run(lambda: problem.gradient_adjoint(start, signal, adjoint))
        hypergradient = gate.run(lambda: problem.mixed_partial(start.params, phi, batch, key, u, by_loss))
        before = None
    else:
        if state_adjoint is None:  # nothing reads the state after the last step
            state_adjoint = jax.tree.map(jnp.zeros_like, floating_leaves(start.opt_state)[0])
        carried = Adjoint(adjoint, state_adjoint, jax.tree.map(jnp.zeros_like, phi))
        hypergradient, before = _backward(problem, start, phi, data, forward, length, carried, gate, wants_start)
    end = forward.end
    if do_meta is not False and forward.signals is not None:
        # Made anew, so that no phase has to hold theta_K and s_K beside theta, s and its own work.
        signals, hypergradient = jax.lax.optimization_barrier((forward.signals, hypergradient))
        end = end_maker(problem, start, forward._replace(signals=signals))()
    return Found(
        end, hypergradient, forward.loss, outer_loss, forward.aux, outer_aux, forward.norm, v, before
    )  # fmt: skip


def default_segment(unroll: int, start: Point) -> int:
    """The length that needs the least memory: K / L - 1 checkpoints of (theta, s), and L gradients."""
    if unroll <= STORE_ALL:
        return unroll
    size = sum(leaf.size for leaf in jax.tree.leaves(start.params))
    trees = 1 + sum(leaf.size for leaf in floating_leaves(start.opt_state)[0]) / max(size, 1)
    return min(range(1, unroll + 1), key=lambda length: (trees * (-(-unroll // length) - 1) + length, -length))


def run_forward(problem: Problem, start: Point, phi: PyTree, data: Data, length: int) -> Forward:
    """K inner steps in segments of ``length``; the first segment takes what is left over."""
    unroll = _count(data.inner_batch)

    def one(point: Point, step_data: tuple[PyTree, Any]) -> tuple[Point, Any]:
        signal, aux = problem.inner_gradient(point.params, phi, *step_data)
        return problem.step(point, signal), (signal, aux)

    def without_signal(point: Point, step_data: tuple[PyTree, Any]) -> tuple[Point, Any]:
        after, (signal, aux) = one(point, step_data)
        return after, (signal.loss, tree_norm(signal.gradient), aux)

    if unroll == 1:
        end, (signal, aux) = one(start, data.step(0))
        signals, aux = jax.tree.map(lambda leaf: leaf[None], (signal, aux))
        return Forward(end, signals, None, signal.loss, aux, tree_norm(signal.gradient))
    if length == unroll:
        end, (signals, aux) = jax.lax.scan(one, start, data.steps(0, unroll))
        return Forward(end, signals, None, jnp.mean(signals.loss), aux, tree_norm(at(-1, signals.gradient)))
    first = first_length(unroll, length)
    point, head = jax.lax.scan(without_signal, start, data.steps(0, first))

    def whole_segment(point: Point, steps: Any) -> tuple[Point, Any]:
        end, figures = jax.lax.scan(without_signal, point, steps)
        return end, (point, figures)

    end, (checkpoints, tail) = jax.lax.scan(whole_segment, point, _segments(data, first, length))
    tail = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tail)
    losses, norms, aux = jax.tree.map(lambda *parts: jnp.concatenate(parts), head, tail)
    return Forward(end, None, checkpoints, jnp.mean(losses), aux, norms[-1])


def first_length(unroll: int, length: int) -> int:
    """Steps of the first segment: 1 to ``length``."""
    return unroll - (-(-unroll // length) - 1) * length


def end_maker(problem: Problem, start: Point, forward: Forward) -> Callable[[], Point]:
    """Gives (theta_K, s_K): made anew from the signals where those are stored."""
    signals = forward.signals
    if signals is None:
        return lambda: forward.end
    return lambda: problem.replay(start, signals, len(signals.loss))


def outer_phase(problem: Problem, end: Point, data: Data) -> tuple[Array, PyTree, PyTree, list[Array] | None]:
    """(loss, aux, v = d L_out / d theta_K, and by the state's floating leaves where the evaluation reads them)."""
    if problem.evaluation_params is None:
        return *problem.outer_gradient(end.params, data.outer_batch, data.outer_key), None
    leaves, rebuild = floating_leaves(end.opt_state)
    read = problem.evaluation_params
    where, pull = jax.vjp(lambda params, leaves: read(rebuild(leaves), params), end.params, leaves)
    loss, aux, gradient = problem.outer_gradient(where, data.outer_batch, data.outer_key)
    return loss, aux, *pull(gradient)


def _backward(
    problem: Problem,
    start: Point,
    phi: PyTree,
    data: Data,
    forward: Forward,
    length: int,
    carried: Adjoint,
    gate: Gate,
    wants_start: bool,
) -> tuple[PyTree, Point | None]:
    """The adjoint pass from (theta_K, s_K): later segments, the first segment down to step 1, and step 0."""

    def through(adjoint: Adjoint, point: Point, signals: Signal, steps: Any, lowest: int) -> Adjoint:
        def body(adjoint: Adjoint, index: Array) -> tuple[Adjoint, None]:
            here, (batch, key) = problem.replay(point, signals, index), at(index, steps)
            params, state, u, by_loss = problem.step_adjoint(here, at(index, signals), adjoint.params, adjoint.state)
            by_gradient, by_phi = problem.hessian_vector(here.params, phi, batch, key, u, by_loss)
            return Adjoint(add(params, by_gradient), state, add(adjoint.phi, by_phi)), None

        return jax.lax.scan(body, adjoint, jnp.arange(lowest, len(signals.loss)), reverse=True)[0]

    def signals_of(point: Point, steps: Any) -> Signal:
        def one(point: Point, step_data: Any) -> tuple[Point, Signal]:
            signal, _ = problem.inner_gradient(point.params, phi, *step_data)
            return problem.step(point, signal), signal

        return jax.lax.scan(one, point, steps)[1]

    unroll = _count(data.inner_batch)
    first = first_length(unroll, length)
    signals = forward.signals
    if signals is None:

        def later_segments() -> Adjoint:
            def body(adjoint: Adjoint, xs: Any) -> tuple[Adjoint, None]:
                point, steps = xs
                return through(adjoint, point, signals_of(point, steps), steps, 0), None

            xs = (forward.checkpoints, _segments(data, first, length))
            return jax.lax.scan(body, carried, xs, reverse=True)[0]

        carried = gate.run(later_segments)
        signals = gate.run(lambda: signals_of(start, data.steps(0, first)))
    if first > 1:
        before_first = carried
        carried = gate.run(lambda: through(before_first, start, signals, data.steps(0, first), 1))

    def first_step() -> tuple[PyTree, Point | None]:
        params, state, u, by_loss = problem.step_adjoint(start, at(0, signals), carried.params, carried.state)
        batch, key = data.step(0)
        if not wants_start:  # no derivative goes further back: the forward-mode pass suffices
            return add(carried.phi, problem.mixed_partial(start.params, phi, batch, key, u, by_loss)), None
        by_gradient, by_phi = problem.hessian_vector(start.params, phi, batch, key, u, by_loss)
        return add(carried.phi, by_phi), Point(add(params, by_gradient), state_cotangent(start.opt_state, state))

    return gate.run(first_step)


def state_cotangent(opt_state: PyTree, floating: list[Array]) -> PyTree:
    """Cotangents in the form of the state: zeros in the place of its integer leaves, keys as they are."""

    def still(leaf: Array) -> Array:
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else jnp.zeros_like(leaf)

    return floating_leaves(jax.tree.map(still, opt_state))[1](floating)


def state_leaves(cotangent: PyTree, opt_state: PyTree) -> list[Array]:
    """The inverse of ``state_cotangent``: the leaves that stand for floating leaves of the state."""
    pairs = zip(jax.tree.leaves(cotangent), jax.tree.leaves(opt_state), strict=True)
    return [jnp.asarray(leaf, like.dtype) for leaf, like in pairs if jnp.issubdtype(like.dtype, jnp.inexact)]


def _segments(data: Data, first: int, length: int) -> tuple[PyTree, Any]:
    """Batches and keys of the steps after the first segment, [segments, length, ...]."""
    steps = data.steps(first, _count(data.inner_batch))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, length, *leaf.shape[1:]), steps)


def _count(batch: PyTree) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


# ---------------------------------------------------------------- reverse mode


def reverse(
    problem: Problem,
    start: Point,
    phi: PyTree,
    data: Data,
    do_meta: DoMeta,
    end_gradient: Point | None,
    wants_start: bool,
) -> Found:
    """``jax.grad`` through everything: the definition, and the reference of the tests."""
    leaves, rebuild = floating_leaves(start.opt_state)

    def run(phi: PyTree, params: PyTree, leaves: list[Array]) -> tuple[Point, tuple[Array, PyTree, Array]]:
        def one(point: Point, step_data: tuple[PyTree, Any]) -> tuple[Point, Any]:
            signal, aux = problem.inner_gradient(point.params, phi, *step_data)
            after = problem.step(point, signal, lambda theta: problem.inner_value(theta, phi, *step_data))
            return after, (signal.loss, aux, tree_norm(jax.lax.stop_gradient(signal.gradient)))

        end, (losses, aux, norms) = jax.lax.scan(
            one, Point(params, rebuild(leaves)), (data.inner_batch, data.inner_key)
        )
        return end, (jnp.mean(losses), aux, norms[-1])

    def objective(phi: PyTree, shift: PyTree, params: PyTree, leaves: list[Array]) -> tuple[Array, Any]:
        end, inner = run(phi, params, leaves)
        where = add(end.params, shift)  # the gradient by shift is v
        read = where if problem.evaluation_params is None else problem.evaluation_params(end.opt_state, where)
        loss, aux = problem.outer_value(read, data.outer_batch, data.outer_key)
        total = loss
        if end_gradient is not None:
            given = (end_gradient.params, state_leaves(end_gradient.opt_state, start.opt_state))
            total = total + _inner_product((end.params, floating_leaves(end.opt_state)[0]), given)
        return total, (end, inner, loss, aux)

    def with_meta() -> Found:
        shift = jax.tree.map(jnp.zeros_like, start.params)
        by = (0, 1, 2, 3) if wants_start else (0, 1)
        gradients, (end, (inner_loss, inner_aux, norm), loss, aux) = jax.grad(objective, argnums=by, has_aux=True)(
            phi, shift, start.params, leaves
        )
        before = Point(gradients[2], state_cotangent(start.opt_state, gradients[3])) if wants_start else None
        return Found(end, gradients[0], inner_loss, loss, inner_aux, aux, norm, gradients[1], before)

    def without_meta() -> Found:
        end, (inner_loss, inner_aux, norm) = run(phi, start.params, leaves)
        zeros = jax.tree.map(zeros_of, jax.eval_shape(with_meta))
        return zeros._replace(end=end, inner_loss=inner_loss, inner_aux=inner_aux, inner_norm=norm)

    if isinstance(do_meta, bool):
        return with_meta() if do_meta else without_meta()
    return jax.lax.cond(do_meta, with_meta, without_meta)


def _inner_product(left: PyTree, right: PyTree) -> Array:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum((jnp.vdot(a, b) for a, b in pairs), start=jnp.zeros(()))
