"""The approximate methods: finite difference, first order, SAMA and implicit, at theta_K on the last inner batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dreamprm_jax.bilevel.exact import DoMeta, Found, Gate, outer_phase
from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import Data, Point, Problem, Signal, held_back, leading, tree_norm

if TYPE_CHECKING:
    from jaxtyping import Array

# Radius of the finite difference (betty-ml's ``darts_alpha``): the length of the step in theta.
FINITE_DIFFERENCE_RADIUS = 0.01


@dataclass(frozen=True)
class CG:
    """Solves (H + damping) x = v by conjugate gradients; H + damping must be positive definite (arXiv 1909.04630)."""

    iterations: int = 20
    damping: float = 0.0
    tolerance: float = 1e-6  # bound on |residual| / |v|

    def solve(self, matvec: Any, v: PyTree, start: PyTree | None) -> PyTree:
        """The solution x; iterates from ``start``, or from zero if it is None."""
        return jax.scipy.sparse.linalg.cg(matvec, v, x0=start, tol=self.tolerance, maxiter=self.iterations)[0]


@dataclass(frozen=True)
class Neumann:
    """The Neumann series x = a sum_i (1 - a (H + damping))^i v (arXiv 1911.02590).

    It converges if the step size a is below 2 / the largest eigenvalue of H + damping.
    """

    step_size: float
    iterations: int = 20
    damping: float = 0.0

    def solve(self, matvec: Any, v: PyTree, start: PyTree | None) -> PyTree:
        """x after ``iterations`` iterations from ``start``, or from zero if it is None."""

        def body(_: Array, x: PyTree) -> PyTree:
            return jax.tree.map(lambda x, v, h: x + self.step_size * (v - h), x, v, matvec(x))

        return jax.lax.fori_loop(0, self.iterations, body, jax.tree.map(jnp.zeros_like, v) if start is None else start)


def approximate(
    problem: Problem,
    method: str,
    start: Point,
    phi: PyTree,
    data: Data,
    do_meta: DoMeta,
    solver: CG | Neumann,
    solution: PyTree | None,
) -> Found:
    """Runs K - 1 plain steps, then the last step together with its hypergradient."""

    def value_fn(step_data: tuple[PyTree, Any]) -> Any:
        return lambda theta: problem.inner_value(theta, phi, *step_data)

    def plain(point: Point, step_data: tuple[PyTree, Any]) -> tuple[Point, Any]:
        signal, aux = problem.inner_gradient(point.params, phi, *step_data)
        return problem.step(point, signal, value_fn(step_data)), (signal.loss, aux)

    unroll = leading(data.inner_batch)
    last = data.step(unroll - 1)
    before, earlier = (start, None) if unroll == 1 else jax.lax.scan(plain, start, data.steps(0, unroll - 1))
    signal, aux = problem.inner_gradient(before.params, phi, *last)
    losses, auxes = jax.tree.map(lambda leaf: leaf[None], (signal.loss, aux))
    if earlier is not None:
        losses, auxes = jax.tree.map(lambda *parts: jnp.concatenate(parts), earlier, (losses, auxes))
    loss = jnp.mean(losses)
    gate = Gate(do_meta, loss)

    def end() -> Point:
        return problem.step(before, signal, value_fn(last))

    outer_loss, outer_aux, v, _ = gate.run(lambda: outer_phase(problem, end(), data))
    if method == "implicit":
        solution = gate.run(lambda: _solve(problem, end().params, phi, last, v, solver, solution))
        direction = solution
    elif method == "sama":
        direction = gate.run(lambda: jax.tree.map(jnp.negative, problem.gradient_adjoint(before, signal, v)[0]))
    else:
        direction = v
    if method in ("finite_difference", "sama"):
        hypergradient = gate.run(lambda: _finite_difference(problem, end().params, phi, last, direction))
    else:
        hypergradient = gate.run(
            lambda: jax.tree.map(jnp.negative, problem.mixed_partial(end().params, phi, *last, direction))
        )
    gradient = held_back(signal.gradient, tree_norm(hypergradient))
    after = problem.step(before, Signal(gradient, signal.loss), value_fn(last))
    return Found(
        after, hypergradient, loss, outer_loss, auxes, outer_aux, tree_norm(gradient), v, None,
        solution if method == "implicit" else None,
    )  # fmt: skip


def _solve(
    problem: Problem, params: PyTree, phi: PyTree, last: tuple[PyTree, Any], v: PyTree, solver: Any, x: PyTree | None
) -> PyTree:
    """Solves for (d^2 L_in / d theta^2 + damping)^-1 v, starting from ``x``."""

    def matvec(x: PyTree) -> PyTree:
        product = problem.hessian_vector(params, phi, *last, x)[0]
        return jax.tree.map(lambda h, leaf: h + solver.damping * leaf, product, x)

    return solver.solve(matvec, v, x)


def _finite_difference(
    problem: Problem, params: PyTree, phi: PyTree, last: tuple[PyTree, Any], direction: PyTree
) -> PyTree:
    """-(grad_phi L_in(theta + e d) - grad_phi L_in(theta - e d)) / 2e, with e |d| = FINITE_DIFFERENCE_RADIUS."""
    epsilon = FINITE_DIFFERENCE_RADIUS / jnp.maximum(tree_norm(direction), jnp.finfo(jnp.float32).tiny)

    def shifted(signed: Array) -> PyTree:
        moved = jax.tree.map(lambda leaf, d: (leaf + signed * d).astype(leaf.dtype), params, direction)
        return problem.phi_gradient(moved, phi, *last)

    return jax.tree.map(
        lambda plus, minus: ((minus - plus) / (2 * epsilon)).astype(plus.dtype), shifted(epsilon), shifted(-epsilon)
    )
