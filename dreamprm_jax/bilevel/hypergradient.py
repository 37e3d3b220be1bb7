"""Exact hypergradients through K optimizer steps, in the memory of a plain step.

The bi-level problem, in the names used here:

    inner update   theta_{k+1}, s_{k+1} = step(theta_k, s_k, g_k),   g_k = grad_theta L_in(theta_k, phi, batch_k)
    wanted         d L_out(theta_K(phi)) / d phi

For K = 1, with v = grad L_out(theta'): u = (d theta' / d g)^T v is a vjp of the optimizer alone, and the hypergradient
is grad_phi of jvp(L_in(., phi), theta, u): one forward-mode pass, as phi enters at the end of the loss. For K > 1 the
adjoint of (theta, s) is carried backwards with Hessian-vector products (forward over reverse). docs/bilevel.md derives
it.
Mixed-mode differentiation of unrolled meta-gradients: MixFlow-MG, arXiv 2505.00793.

Memory: every phase after the inner update sits behind its own ``lax.cond``, whose buffers XLA cannot let live together
with another phase's. The predicate is data (``do_meta`` and a finite loss), so that the compiler cannot fold it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import Data, Problem, Unrolled, at, floating_leaves, tree_norm, uniform

Method = Literal["mixed", "reverse", "finite_difference", "first_order"]
METHODS: tuple[Method, ...] = ("mixed", "reverse", "finite_difference", "first_order")

# Relative radius of the finite difference, betty-ml's ``darts_alpha``: the step in theta has this length.
FINITE_DIFFERENCE_RADIUS = 0.01


class Norms(NamedTuple):
    """Euclidean norms over whole trees; those of the meta phases are 0 where ``do_meta`` was false."""

    inner_gradient: Float[Array, ""]  # of the last inner step
    outer_gradient: Float[Array, ""]  # v = grad L_out(theta')
    hypergradient: Float[Array, ""]


class MetaGradientResult(NamedTuple):
    """What one call gives: the updated inner problem and, where ``do_meta`` held, the hypergradient."""

    params: PyTree  # theta_K
    opt_state: PyTree
    hypergradient: PyTree  # like meta_params; zeros where do_meta was false, nan where the inner loss was not finite
    inner_loss: Float[Array, ""]  # mean over the K steps, each before its update
    outer_loss: Float[Array, ""]  # at theta_K; 0 where do_meta was false
    inner_aux: PyTree  # of inner_loss; leading axes [K, M] where K > 1, M > 1; None without has_aux
    outer_aux: PyTree  # of outer_loss; leading axis [M] where M > 1; zeros where do_meta was false
    norms: Norms


class MetaGradient(Protocol):
    """The callable that ``make_meta_gradient`` returns. Pure; wrap it in ``jax.jit``."""

    def __call__(
        self,
        params: PyTree,
        opt_state: PyTree,
        meta_params: PyTree,
        inner_batch: PyTree,
        outer_batch: PyTree,
        *,
        do_meta: bool | Bool[Array, ""] = True,
        rng: PRNGKeyArray | None = None,
        frozen: PyTree | None = None,
    ) -> MetaGradientResult:
        """Runs K inner updates and differentiates the outer loss through them.

        Args:
          params: theta, every leaf floating; the leaves that the optimizer trains.
          opt_state: of ``optimizer.init(params)`` or later.
          meta_params: phi, every leaf floating.
          inner_batch: leaves [B, ...]; with unroll > 1 [K, B, ...]; with inner_accumulation M > 1 [(K,) M, B / M, ...].
          outer_batch: leaves [B, ...]; with outer_accumulation M > 1 [M, B / M, ...].
          do_meta: false runs the inner updates alone. A traced value costs one compilation for both cases.
          rng: key for losses with ``has_rng``. Each inner step (and micro-batch) gets one key, which every phase that
            differentiates that step uses again; the outer loss gets its own.
          frozen: the other part of ``partition``; the losses then see ``merge(params, frozen)``.

        Returns:
          MetaGradientResult.
        """
        ...


def make_meta_gradient(
    inner_loss: Callable[..., Any],
    outer_loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    method: Method = "mixed",
    unroll: int = 1,
    has_aux: bool = False,
    has_rng: bool = False,
    inner_accumulation: int = 1,
    outer_accumulation: int = 1,
) -> MetaGradient:
    """Builds the function that updates theta and gives the hypergradient of phi.

    Args:
      inner_loss: (params, meta_params, batch[, rng]) -> scalar, or (scalar, aux). Twice differentiable in forward mode:
        no ``custom_vjp`` kernels.
      outer_loss: (params, batch[, rng]) -> scalar, or (scalar, aux).
      optimizer: any optax transformation whose update is differentiable. Adam needs ``eps_root > 0`` or
        ``bilevel.optimizers.adamw``: optax's default has a nan derivative where a gradient has only been 0 so far.
      method: ``mixed``: exact, memory of a plain step. ``reverse``: exact, jax.grad through the unrolled steps: the
        reference. ``finite_difference``: an approximation, betty-ml's ``darts``: central difference along v at theta_K
        on the last inner batch, as though the optimizer were SGD with rate 1. ``first_order``: the
        limit of that difference, without its rounding: the diagnostic of what ignoring the optimizer costs.
      unroll: K, inner steps per call.
      has_aux: both losses return (scalar, aux).
      has_rng: both losses take a key as their last argument.
      inner_accumulation: M micro-batches per inner step. The step's loss is their mean, hence that of the whole batch
        where the loss is a mean over equally many examples.
      outer_accumulation: the same for the outer loss.

    Returns:
      A ``MetaGradient``.

    Raises:
      ValueError: on an unknown method or counts below 1.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: must be one of {', '.join(METHODS)}")
    for name, count in (
        ("unroll", unroll),
        ("inner_accumulation", inner_accumulation),
        ("outer_accumulation", outer_accumulation),
    ):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")

    def meta_gradient(
        params: PyTree,
        opt_state: PyTree,
        meta_params: PyTree,
        inner_batch: PyTree,
        outer_batch: PyTree,
        *,
        do_meta: bool | Bool[Array, ""] = True,
        rng: PRNGKeyArray | None = None,
        frozen: PyTree | None = None,
    ) -> MetaGradientResult:
        _check_floating(params, "params")
        _check_floating(meta_params, "meta_params")
        _check_leading(
            inner_batch, (unroll,) * (unroll > 1) + (inner_accumulation,) * (inner_accumulation > 1), "inner"
        )
        _check_leading(outer_batch, (outer_accumulation,) * (outer_accumulation > 1), "outer")
        if has_rng and rng is None:
            raise ValueError("the losses take a key (has_rng=True): pass rng")
        outer_key, inner_key = jax.random.split(rng) if has_rng and rng is not None else (None, None)
        if inner_key is not None and unroll > 1:
            inner_key = jax.random.split(inner_key, unroll)
        problem = Problem(
            uniform(inner_loss, has_aux, has_rng, frozen),
            uniform(outer_loss, has_aux, has_rng, frozen),
            optimizer,
            unroll,
            inner_accumulation,
            outer_accumulation,
        )
        data = Data(inner_batch, inner_key, outer_batch, outer_key)
        point = (params, opt_state, meta_params)
        return (
            _reverse(problem, *point, data, do_meta)
            if method == "reverse"
            else _phased(problem, method, *point, data, do_meta)
        )

    return meta_gradient


# ---------------------------------------------------------------- methods


def _phased(
    problem: Problem,
    method: Method,
    params: PyTree,
    opt_state: PyTree,
    phi: PyTree,
    data: Data,
    do_meta: bool | Bool[Array, ""],
) -> MetaGradientResult:
    """Inner update, outer gradient, backward pass: each its own phase. All methods but ``reverse``."""
    after = problem.unrolled(params, opt_state, phi, data)
    gate = _Gate(do_meta, after.loss)

    def end_params() -> PyTree:
        return problem.end(params, opt_state, after.gradients)[0]

    # theta_K and s_K are made anew from the gradients where they are needed, in a phase and at the end: no phase has to
    # hold them beside theta, s and its own work.
    outer = gate.run(lambda: problem.outer_gradient(end_params(), data.outer_batch, data.outer_key))
    v = outer[2]
    if method == "mixed":
        hypergradient = _mixed(problem, params, opt_state, phi, data, after.gradients, v, gate)
    else:
        last = (data.inner_batch, data.inner_key) if problem.unroll == 1 else data.step(problem.unroll - 1)
        if method == "finite_difference":
            hypergradient = gate.run(lambda: _finite_difference(problem, end_params(), phi, *last, v))
        else:
            hypergradient = gate.run(
                lambda: jax.tree.map(jnp.negative, problem.mixed_partial(end_params(), phi, *last, v))
            )
    if do_meta is not False:
        gradients, hypergradient = jax.lax.optimization_barrier((after.gradients, hypergradient))
        after = Unrolled(*problem.end(params, opt_state, gradients), gradients, after.loss, after.aux)
    return _result(problem, after, outer[0], outer[1], v, hypergradient)


def _mixed(
    problem: Problem,
    params: PyTree,
    opt_state: PyTree,
    phi: PyTree,
    data: Data,
    gradients: PyTree,
    v: PyTree,
    gate: _Gate,
) -> PyTree:
    """The exact hypergradient from v = grad L_out(theta_K).

    The checkpoints are the K inner gradients: replaying the optimizer on them gives back any (theta_k, s_k), at one
    tree a step instead of theta, s and g (four with Adam).
    """
    if problem.unroll == 1:
        # Phases of their own: g and v need not outlive the optimizer's.
        u = gate.run(lambda: problem.gradient_adjoint(params, opt_state, gradients, v))
        return gate.run(lambda: problem.mixed_partial(params, phi, data.inner_batch, data.inner_key, u))

    def backward_step(carry: tuple[PyTree, list[Array], PyTree], index: Array) -> tuple[PyTree, None]:
        adjoint, state_adjoint, total = carry
        theta, state = problem.replay(params, opt_state, gradients, index)
        adjoint, state_adjoint, u = problem.step_adjoint(theta, state, at(index, gradients), adjoint, state_adjoint)
        batch, key = data.step(index)
        through_gradient, contribution = problem.hessian_vector(theta, phi, batch, key, u)
        return (_add(adjoint, through_gradient), state_adjoint, _add(total, contribution)), None

    def middle_phase() -> tuple[PyTree, list[Array], PyTree]:
        # Nothing reads the state after the last step.
        start = (v, jax.tree.map(jnp.zeros_like, floating_leaves(opt_state)[0]), jax.tree.map(jnp.zeros_like, phi))
        return jax.lax.scan(backward_step, start, jnp.arange(1, problem.unroll), reverse=True)[0]

    adjoint, state_adjoint, total = gate.run(middle_phase)

    def last_phase() -> PyTree:
        # The first theta is given, no derivative goes further back: the cheap forward-mode pass suffices.
        u = problem.step_adjoint(params, opt_state, at(0, gradients), adjoint, state_adjoint)[2]
        batch, key = data.step(0)
        return _add(total, problem.mixed_partial(params, phi, batch, key, u))

    return gate.run(last_phase)


def _finite_difference(problem: Problem, params: PyTree, phi: PyTree, batch: PyTree, key: Any, v: PyTree) -> PyTree:
    """-(grad_phi L_in(theta' + e v) - grad_phi L_in(theta' - e v)) / 2e, with e |v| = FINITE_DIFFERENCE_RADIUS."""
    epsilon = FINITE_DIFFERENCE_RADIUS / jnp.maximum(tree_norm(v), jnp.finfo(jnp.float32).tiny)

    def shifted(signed: Array) -> PyTree:
        moved = jax.tree.map(lambda leaf, d: (leaf + signed * d).astype(leaf.dtype), params, v)
        return problem.phi_gradient(moved, phi, batch, key)

    return jax.tree.map(
        lambda plus, minus: ((minus - plus) / (2 * epsilon)).astype(plus.dtype), shifted(epsilon), shifted(-epsilon)
    )


def _reverse(
    problem: Problem,
    params: PyTree,
    opt_state: PyTree,
    phi: PyTree,
    data: Data,
    do_meta: bool | Bool[Array, ""],
) -> MetaGradientResult:
    """jax.grad through everything: the definition, and the reference of the tests."""

    def objective(phi: PyTree, shift: PyTree) -> tuple[Array, tuple[Unrolled, PyTree]]:
        after = problem.unrolled(params, opt_state, phi, data)
        loss, aux = problem.outer_value(_add(after.params, shift), data.outer_batch, data.outer_key)
        return loss, (after, aux)

    def with_meta() -> MetaGradientResult:
        no_shift = jax.tree.map(jnp.zeros_like, params)  # its gradient is v
        (loss, (after, aux)), (hypergradient, v) = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(
            phi, no_shift
        )
        return _result(problem, after, loss, aux, v, hypergradient)

    def without_meta() -> MetaGradientResult:
        after = problem.unrolled(params, opt_state, phi, data)
        shapes = jax.eval_shape(problem.outer_gradient, params, data.outer_batch, data.outer_key)
        loss, aux, v = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return _result(problem, after, loss, aux, v, jax.tree.map(jnp.zeros_like, phi))

    if isinstance(do_meta, bool):
        return with_meta() if do_meta else without_meta()
    return jax.lax.cond(do_meta, with_meta, without_meta)


# ---------------------------------------------------------------- small parts


@dataclass(frozen=True)
class _Gate:
    """Runs a phase behind ``lax.cond``: zeros where it is not wanted, nan where the inner loss is not finite."""

    do_meta: bool | Bool[Array, ""]
    loss: Float[Array, ""]

    def run(self, phase: Callable[[], Any]) -> Any:
        """The phase's value, or a fill of its shapes and dtypes."""
        shapes = jax.eval_shape(phase)

        def fill() -> Any:
            def one(leaf: jax.ShapeDtypeStruct) -> Array:
                zeros = jnp.zeros(leaf.shape, leaf.dtype)
                return jnp.where(self.do_meta, jnp.nan, zeros) if jnp.issubdtype(leaf.dtype, jnp.floating) else zeros

            return jax.tree.map(one, shapes)

        if self.do_meta is False:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(jnp.logical_and(self.do_meta, jnp.isfinite(self.loss)), phase, fill)


def _result(
    problem: Problem, after: Unrolled, outer_loss: Array, outer_aux: PyTree, v: PyTree, hypergradient: PyTree
) -> MetaGradientResult:
    gradient = after.gradients if problem.unroll == 1 else at(-1, after.gradients)
    norms = Norms(tree_norm(gradient), tree_norm(v), tree_norm(hypergradient))
    return MetaGradientResult(
        after.params, after.opt_state, hypergradient, after.loss, outer_loss, after.aux, outer_aux, norms
    )


def _add(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, left, right)


def _check_floating(tree: PyTree, name: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}: every leaf must be floating; pass"
                " other leaves as frozen (bilevel.partition) or in the batch"
            )


def _check_leading(batch: PyTree, axes: tuple[int, ...], name: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if jnp.shape(leaf)[: len(axes)] != axes:
            raise ValueError(
                f"{name}_batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}: leading axes {axes} expected"
                " (unrolled steps, then micro-batches)"
            )
