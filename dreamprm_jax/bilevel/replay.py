"""Exact meta-gradients through thousands of steps in O(log K) memory, driven from the host.

The driver stores log2(K) points (theta_k, s_k), which the schedule of ``checkpoints`` selects, and recomputes the steps
between them. Source: REPLAY, arXiv 2503.13751.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.bilevel.checkpoints import NOWHERE, START, schedule
from dreamprm_jax.bilevel.exact import outer_phase, state_cotangent
from dreamprm_jax.bilevel.hypergradient import check_batch, check_floating
from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import Adjoint, Data, Point, Problem, floating_leaves, reads_loss, uniform

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


class ReplayResult(NamedTuple):
    """The result of K steps and the whole backward pass."""

    params: PyTree  # theta_K
    opt_state: PyTree
    hypergradient: PyTree  # d L_out / d phi
    start_gradient: Point  # d L_out / d (theta_0, s_0)
    outer_loss: Float[Array, ""]
    stored: int  # number of points (theta, s) stored at a time, including the start
    inner_steps: int  # number of inner gradients computed


def make_replay(
    inner_loss: Callable[..., Any],
    outer_loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    batch: Callable[[int], PyTree],
    *,
    has_rng: bool = False,
    tangent_loss: Callable[..., Any] | None = None,
    evaluation_params: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> Callable[..., ReplayResult]:
    """Builds the function that trains for K steps and differentiates the outer loss through all of them.

    Args:
      inner_loss: (params, meta_params, batch[, rng]) -> scalar.
      outer_loss: (params, batch[, rng]) -> scalar.
      optimizer: as for ``make_meta_gradient`` with ``method="mixed"``.
      batch: step number -> leaves [M, B, ...]. It is called several times per step and must return the same rows each
        time, so the order of the data must depend only on the step number and a seed.
      has_rng: whether both losses take a key as their last argument.
      tangent_loss: as for ``make_meta_gradient``.
      evaluation_params: as for ``make_meta_gradient``.

    Returns:
      (params, opt_state, meta_params, outer_batch, steps, *, checkpoints=None, rng=None, frozen=None) -> ReplayResult.
      ``outer_batch`` has leaves [M, B, ...]. ``checkpoints`` is the number of stored points, log2(steps) by default.
      The function compiles its parts itself: do not wrap it in ``jax.jit``.

    Raises:
      ValueError: from the returned function, if ``steps`` is below 1, ``checkpoints`` is below 0, a key is missing, a
        leaf is not floating, or a batch lacks an axis.
    """

    def problem_of(point: Point, frozen: PyTree | None) -> Problem:
        inner = uniform(inner_loss, False, has_rng, frozen)
        tangent = inner if tangent_loss is None else uniform(tangent_loss, False, has_rng, frozen)
        outer = uniform(outer_loss, False, has_rng, frozen)
        return Problem(inner, tangent, outer, optimizer, reads_loss(optimizer, *point), evaluation_params)

    @jax.jit
    def forward(point: Point, phi: PyTree, frozen: PyTree, batch: PyTree, key: Any) -> Point:
        problem = problem_of(point, frozen)
        return problem.step(point, problem.inner_gradient(point.params, phi, batch, key)[0])

    @jax.jit
    def backward(point: Point, phi: PyTree, frozen: PyTree, batch: PyTree, key: Any, adjoint: Adjoint) -> Adjoint:
        problem = problem_of(point, frozen)
        signal, _ = problem.inner_gradient(point.params, phi, batch, key)
        return problem.pull_back(point, signal, phi, batch, key, adjoint)

    @jax.jit
    def begin(point: Point, phi: PyTree, frozen: PyTree, outer_batch: PyTree, key: Any) -> tuple[Array, Adjoint]:
        loss, _, v, state = outer_phase(problem_of(point, frozen), point, Data(None, None, outer_batch, key))
        leaves = floating_leaves(point.opt_state)[0]
        state = jax.tree.map(jnp.zeros_like, leaves) if state is None else state
        return loss, Adjoint(v, state, jax.tree.map(jnp.zeros_like, phi))

    def replay(
        params: PyTree,
        opt_state: PyTree,
        meta_params: PyTree,
        outer_batch: PyTree,
        steps: int,
        *,
        checkpoints: int | None = None,
        rng: PRNGKeyArray | None = None,
        frozen: PyTree | None = None,
    ) -> ReplayResult:
        if steps < 1:
            raise ValueError(f"steps={steps}: must be at least 1")
        if checkpoints is not None and checkpoints < 0:
            raise ValueError(f"checkpoints={checkpoints}: must be at least 0")
        if has_rng and rng is None:
            raise ValueError("the losses take a key (has_rng=True): pass rng")
        check_floating(params, "params")
        check_floating(meta_params, "meta_params")
        check_batch(batch(0), "batch(0)", ("M", "B"))
        check_batch(outer_batch, "outer_batch", ("M", "B"))
        params, opt_state, meta_params = jax.tree.map(jnp.asarray, (params, opt_state, meta_params))
        outer_key, inner_key = jax.random.split(rng) if has_rng and rng is not None else (None, None)
        plan = schedule(steps, math.ceil(math.log2(steps)) if checkpoints is None else checkpoints)
        start, stored = Point(params, opt_state), {}

        def inputs(step: int) -> tuple[PyTree, Any]:
            return batch(step), None if inner_key is None else jax.random.fold_in(inner_key, step)

        def advance(point: Point, first: int, writes: tuple[int, ...]) -> Point:
            for step, slot in enumerate(writes, first):
                if slot != NOWHERE:
                    stored[slot] = point
                point = forward(point, meta_params, frozen, *inputs(step))
            return point

        end = advance(start, 0, plan.writes)
        loss, adjoint = begin(end, meta_params, frozen, outer_batch, outer_key)
        for last, sweep in zip(reversed(range(steps)), plan.sweeps, strict=True):
            point = advance(start if sweep.read == START else stored[sweep.read], sweep.first, sweep.writes[:-1])
            if sweep.writes[-1] != NOWHERE:
                stored[sweep.writes[-1]] = point
            adjoint = backward(point, meta_params, frozen, *inputs(last), adjoint)
        before = Point(adjoint.params, state_cotangent(opt_state, adjoint.state))
        return ReplayResult(*end, adjoint.phi, before, loss, 1 + plan.slots, plan.steps)

    return replay
