"""The two exact methods: mixed mode in the memory of a plain step, and reverse mode through all steps.

For K = 1, let v = grad L_out(theta'). Then u = (d theta' / d g)^T v is a vjp of the optimizer alone, and the
hypergradient is grad_phi of jvp(L_in(., phi), theta, u). This takes one forward-mode pass, because phi enters at the
end of the loss. For K > 1 the adjoint of (theta, s) is carried backward with Hessian-vector products (forward over
reverse). docs/bilevel.md has the derivation. Source: MixFlow-MG, arXiv 2505.00793.

By default the signals (the gradients) of the K steps are stored if K <= 4, or if all are smaller than the activations.
Replaying the optimizer on them restores any (theta_k, s_k). This takes one tree per step; storing theta, s and g would
take four with Adam. Otherwise the points (theta_k, s_k) selected by the schedule of ``checkpoints`` are stored, and the
steps between them are recomputed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.bilevel.checkpoints import NOWHERE, START, Schedule, default_slots, schedule
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
    leading,
    tree_norm,
    zeros_of,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

DoMeta = Any  # bool | Bool[Array, ""]
STORE_ALL = 4  # for K up to this value every gradient is stored, whatever its size


class Found(NamedTuple):
    """The result of a method; ``make_meta_gradient`` converts it to a ``MetaGradientResult``."""

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
    """The result of the K inner steps, and what is stored for the backward pass."""

    end: Point
    signals: Signal | None  # [K], if signals are stored
    points: Point | None  # [slots], if points are stored
    loss: Float[Array, ""]  # mean over the steps
    aux: PyTree  # [K, M, ...]
    norm: Float[Array, ""]  # norm of the last gradient
    mixed_partial: Callable[[PyTree, Array | None], PyTree] | None = None  # K = 1, from saved residuals


@dataclass(frozen=True)
class Gate:
    """Runs a phase inside ``lax.cond``. Gives zeros if ``do_meta`` is false, and nan if the inner loss is not finite.

    This keeps the buffers of two phases from being live at the same time. The predicate depends on data, so the
    compiler cannot fold it away.
    """

    do_meta: bool | Bool[Array, ""]
    loss: Float[Array, ""]

    def run(self, phase: Callable[[], Any]) -> Any:
        """The phase's value, or zeros or nan of the same shapes and dtypes."""
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
    checkpoints: int | Literal["gradients"] | None,
) -> Found:
    """Runs the inner update, the outer gradient and the backward pass, each as a separate phase."""
    unroll = leading(data.inner_batch)
    if checkpoints is None:
        checkpoints = default_checkpoints(problem, start, phi, data)
    plan = None if checkpoints == "gradients" else schedule(unroll, checkpoints)
    forward = run_forward(problem, start, phi, data, plan)
    gate = Gate(do_meta, forward.loss)
    remake = end_maker(problem, start, forward)
    outer_loss, outer_aux, v, state_adjoint = gate.run(lambda: outer_phase(problem, remake(), data))
    adjoint = v
    if end_gradient is not None:
        adjoint = add(v, end_gradient.params)
        given = state_leaves(end_gradient.opt_state, start.opt_state)
        state_adjoint = given if state_adjoint is None else add(state_adjoint, given)
    if forward.signals is not None and unroll == 1 and state_adjoint is None and not wants_start:
        # These are separate phases, so that g and v are freed after the phase of the optimizer's vjp.
        signal, (batch, key) = at(0, forward.signals), data.step(0)
        u, by_loss = gate.run(lambda: problem.gradient_adjoint(start, signal, adjoint))
        again = functools.partial(problem.mixed_partial, start.params, phi, batch, key)
        hypergradient = gate.run(lambda: (forward.mixed_partial or again)(u, by_loss))
        before = None
    else:
        if state_adjoint is None:  # the outer loss does not depend on the state after the last step
            state_adjoint = jax.tree.map(jnp.zeros_like, floating_leaves(start.opt_state)[0])
        carried = Adjoint(adjoint, state_adjoint, jax.tree.map(jnp.zeros_like, phi))
        hypergradient, before = _backward(problem, start, phi, data, forward, plan, carried, gate, wants_start)
    end = forward.end
    if do_meta is not False and forward.signals is not None:
        # Recomputed, so that no phase has to hold theta_K and s_K in addition to theta, s and its own buffers.
        end = problem.replay(start, forward.signals, unroll, until=tree_norm(hypergradient))
    return Found(
        end, hypergradient, forward.loss, outer_loss, forward.aux, outer_aux, forward.norm, v, before
    )  # fmt: skip


def default_checkpoints(problem: Problem, start: Point, phi: PyTree, data: Data) -> int | Literal["gradients"]:
    """``"gradients"`` if K <= 4 or if K gradients take at most the bytes of one micro-batch's residuals.

    Otherwise the number of points of ``default_slots``.
    """
    unroll = leading(data.inner_batch)
    tree = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start.params))
    if unroll <= STORE_ALL or unroll * tree <= problem.residual_bytes(start.params, phi, *data.step(0)):
        return "gradients"
    return default_slots(unroll)


def run_forward(problem: Problem, start: Point, phi: PyTree, data: Data, plan: Schedule | None) -> Forward:
    """Runs K inner steps and stores all signals, or the points that the plan selects."""
    unroll = leading(data.inner_batch)

    def one(point: Point, step_data: tuple[PyTree, Any]) -> tuple[Point, Any]:
        signal, aux = problem.inner_gradient(point.params, phi, *step_data)
        return problem.step(point, signal), (signal, aux)

    if plan is not None:

        def storing(carry: tuple[Point, Point], xs: Any) -> tuple[tuple[Point, Point], Any]:
            point, points = carry
            step_data, slot = xs
            points = _write(points, slot, point)
            after, (signal, aux) = one(point, step_data)
            return (after, points), (signal.loss, tree_norm(signal.gradient), aux)

        points = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (plan.slots, *leaf.shape)), start)
        xs = (data.steps(0, unroll), jnp.asarray(plan.writes))
        (end, points), (losses, norms, aux) = jax.lax.scan(storing, (start, points), xs)
        return Forward(end, None, points, jnp.mean(losses), aux, norms[-1])
    kept = None
    if unroll == 1:
        if problem.reuse_forward:
            signal, aux, kept = problem.linearized_gradient(start.params, phi, *data.step(0))
            end = problem.step(start, signal)
        else:
            end, (signal, aux) = one(start, data.step(0))
        signals, aux = jax.tree.map(lambda leaf: leaf[None], (signal, aux))
        return Forward(end, signals, None, signal.loss, aux, tree_norm(signal.gradient), kept)
    end, (signals, aux) = jax.lax.scan(one, start, data.steps(0, unroll))
    return Forward(end, signals, None, jnp.mean(signals.loss), aux, tree_norm(at(-1, signals.gradient)))


def _write(points: Point, slot: Array, point: Point) -> Point:
    """The stored points with ``point`` written to its slot; unchanged if the slot is NOWHERE."""

    def one(stored: Array, leaf: Array) -> Array:
        if not len(stored):
            return stored
        place = jnp.maximum(slot, 0)
        kept = jnp.where(slot == NOWHERE, jax.lax.dynamic_index_in_dim(stored, place, keepdims=False), leaf)
        return jax.lax.dynamic_update_index_in_dim(stored, kept, place, 0)

    return jax.tree.map(one, points, point)


def end_maker(problem: Problem, start: Point, forward: Forward) -> Callable[[], Point]:
    """Returns a function that gives (theta_K, s_K). If signals are stored, it recomputes the point from them."""
    signals = forward.signals
    if signals is None:
        return lambda: forward.end
    return lambda: problem.replay(start, signals, len(signals.loss))


def outer_phase(problem: Problem, end: Point, data: Data) -> tuple[Array, PyTree, PyTree, list[Array] | None]:
    """The outer loss and its gradient.

    Returns:
      (loss, aux, v = d L_out / d theta_K, gradient with respect to the state's floating leaves). The last is None if
      the problem has no ``evaluation_params``.
    """
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
    plan: Schedule | None,
    carried: Adjoint,
    gate: Gate,
    wants_start: bool,
) -> tuple[PyTree, Point | None]:
    """Carries the adjoint from (theta_K, s_K) back through steps K - 1, ..., 1 and then through step 0."""

    def with_signals(signals: Signal) -> Adjoint:
        def body(adjoint: Adjoint, index: Array) -> tuple[Adjoint, None]:
            point, signal = problem.replay(start, signals, index), at(index, signals)
            return problem.pull_back(point, signal, phi, *data.step(index), adjoint), None

        return jax.lax.scan(body, carried, jnp.arange(1, len(signals.loss)), reverse=True)[0]

    def with_points(points: Point, plan: Schedule) -> Adjoint:
        def advance(carry: tuple[Point, Point], xs: Any) -> tuple[tuple[Point, Point], None]:
            point, points = carry
            step, write, last = xs
            points = _write(points, write, point)

            def take() -> Point:
                return problem.step(point, problem.inner_gradient(point.params, phi, *data.step(step))[0])

            return (jax.lax.cond(step < last, take, lambda: point), points), None

        def sweep(carry: tuple[Point, Adjoint], xs: Any) -> tuple[tuple[Point, Adjoint], None]:
            points, adjoint = carry
            read, last, steps, writes = xs

            def pick(first: Array, stored: Array) -> Array:
                return jnp.where(read == START, first, stored[jnp.maximum(read, 0)]) if len(stored) else first

            point = jax.tree.map(pick, start, points)
            (point, points), _ = jax.lax.scan(advance, (point, points), (steps, writes, jnp.full_like(steps, last)))
            signal, _ = problem.inner_gradient(point.params, phi, *data.step(last))
            return (points, problem.pull_back(point, signal, phi, *data.step(last), adjoint)), None

        sweeps = plan.sweeps[:-1]
        longest = max(len(one.writes) for one in sweeps)
        xs = []
        for one in sweeps:
            writes = np.array([*one.writes, *(NOWHERE,) * (longest - len(one.writes))])
            xs.append((one.read, one.first + len(one.writes) - 1, one.first + np.arange(longest), writes))
        return jax.lax.scan(sweep, (points, carried), jax.tree.map(lambda *leaves: jnp.asarray(leaves), *xs))[0][1]

    signals, points = forward.signals, forward.points
    if signals is None:
        assert plan is not None
        assert points is not None
        if len(plan.sweeps) > 1:
            carried = gate.run(lambda: with_points(points, plan))
        batch, key = data.step(0)
        signals = gate.run(lambda: at(None, problem.inner_gradient(start.params, phi, batch, key)[0]))
    elif len(signals.loss) > 1:
        carried = gate.run(lambda: with_signals(signals))

    def first_step() -> tuple[PyTree, Point | None]:
        signal, (batch, key) = at(0, signals), data.step(0)
        if wants_start:
            before = problem.pull_back(start, signal, phi, batch, key, carried)
            return before.phi, Point(before.params, state_cotangent(start.opt_state, before.state))
        # No derivative is needed before this step, so the forward-mode pass is enough.
        _, _, u, by_loss = problem.step_adjoint(start, signal, carried.params, carried.state)
        return add(carried.phi, problem.mixed_partial(start.params, phi, batch, key, u, by_loss)), None

    return gate.run(first_step)


def state_cotangent(opt_state: PyTree, floating: list[Array]) -> PyTree:
    """Cotangents with the structure of the state: zeros for integer leaves; keys are unchanged."""

    def still(leaf: Array) -> Array:
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else jnp.zeros_like(leaf)

    return floating_leaves(jax.tree.map(still, opt_state))[1](floating)


def state_leaves(cotangent: PyTree, opt_state: PyTree) -> list[Array]:
    """The inverse of ``state_cotangent``: the leaves that correspond to floating leaves of the state."""
    pairs = zip(jax.tree.leaves(cotangent), jax.tree.leaves(opt_state), strict=True)
    return [jnp.asarray(leaf, like.dtype) for leaf, like in pairs if jnp.issubdtype(like.dtype, jnp.inexact)]


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
    """``jax.grad`` through all steps. This is the definition of the hypergradient and the reference in the tests."""
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
        where = add(end.params, shift)  # the gradient with respect to shift is v
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
