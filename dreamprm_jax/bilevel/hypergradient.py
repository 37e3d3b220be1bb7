"""Hypergradients through K optimizer steps: the public function, its result type and its argument checks.

Notation of the bi-level problem:

    inner update    theta_{k+1}, s_{k+1} = step(theta_k, s_k, g_k),   g_k = grad_theta L_in(theta_k, phi, batch_k)
    hypergradient   d L_out(theta_K(phi)) / d phi,  and optionally  d L_out / d (theta_0, s_0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.bilevel import approximate, exact
from dreamprm_jax.bilevel.notices import warn_about
from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import Data, Point, Problem, reads_loss, tree_norm, uniform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, PRNGKeyArray

Method = Literal["mixed", "reverse", "finite_difference", "first_order", "sama", "implicit"]
METHODS: tuple[Method, ...] = ("mixed", "reverse", "finite_difference", "first_order", "sama", "implicit")
EXACT: tuple[Method, ...] = ("mixed", "reverse")


class Norms(NamedTuple):
    """Euclidean norms over whole pytrees. The last two are 0 if ``do_meta`` is false."""

    inner_gradient: Float[Array, ""]  # the gradient of the last inner step
    outer_gradient: Float[Array, ""]  # v = d L_out / d theta_K
    hypergradient: Float[Array, ""]


class MetaGradientResult(NamedTuple):
    """The updated inner parameters and optimizer state and, if ``do_meta`` is true, the hypergradient."""

    params: PyTree  # theta_K
    opt_state: PyTree
    hypergradient: PyTree  # like meta_params; zeros if do_meta is false, nan if the inner loss is not finite
    inner_loss: Float[Array, ""]  # mean over the K steps; each loss is computed before the step's update
    outer_loss: Float[Array, ""]  # at theta_K; 0 if do_meta is false
    inner_aux: PyTree  # aux of the inner loss with leading axes [K, M]; None without has_aux
    outer_aux: PyTree  # aux of the outer loss with leading axis [M]; zeros if do_meta is false
    norms: Norms
    start_gradient: Point | None = None  # d L_out / d (theta_0, s_0); zeros for integer leaves of s_0
    solution: PyTree | None = None  # method="implicit": solution of the linear system, to warm-start the next call


class MetaGradient(Protocol):
    """The callable that ``make_meta_gradient`` returns. It is pure; wrap it in ``jax.jit``."""

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
        end_gradient: Point | None = None,
        solution: PyTree | None = None,
    ) -> MetaGradientResult:
        """Runs K inner updates and differentiates the outer loss through them.

        Args:
          params: theta, the leaves that the optimizer trains. Every leaf must be floating.
          opt_state: the state from ``optimizer.init(params)`` or from a previous call.
          meta_params: phi. Every leaf must be floating.
          inner_batch: leaves [K, M, B, ...], the data of K inner steps of M micro-batches each (``stack_batches``). A
            step's loss is the mean over its micro-batches. It equals the loss of the whole batch if the loss is a mean
            over the examples.
          outer_batch: leaves [M, B, ...] (``split_batch``). M may differ from that of ``inner_batch``.
          do_meta: if false, only the inner updates run. If it is traced, one compilation serves both cases.
          rng: key for losses with ``has_rng``. Each inner step and micro-batch gets its own key, and every phase that
            differentiates the step uses the same key. The outer loss gets a separate key.
          frozen: the frozen part from ``partition``. The losses are then called with ``merge(params, frozen)``.
          end_gradient: cotangents of (theta_K, s_K) to add to those of the outer loss, for example the
            ``start_gradient`` of the next window of steps. Exact methods only.
          solution: initial guess for the solver of ``implicit``, usually ``solution`` of the previous call.

        Returns:
          The ``MetaGradientResult``.

        Raises:
          ValueError: if a leaf is not floating, a batch has the wrong axes, a key is missing, the method does not use
            an argument, or the method cannot differentiate the optimizer.
        """
        ...


def make_meta_gradient(
    inner_loss: Callable[..., Any],
    outer_loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    method: Method = "mixed",
    has_aux: bool = False,
    has_rng: bool = False,
    tangent_loss: Callable[..., Any] | None = None,
    reuse_forward: bool = False,
    start_gradient: bool = False,
    checkpoints: int | Literal["gradients"] | None = None,
    evaluation_params: Callable[[PyTree, PyTree], PyTree] | None = None,
    solver: approximate.CG | approximate.Neumann | None = None,
) -> MetaGradient:
    """Builds the function that updates theta and returns the hypergradient of phi.

    Args:
      inner_loss: (params, meta_params, batch[, rng]) -> scalar, or (scalar, aux).
      outer_loss: (params, batch[, rng]) -> scalar, or (scalar, aux).
      optimizer: an optax transformation. If it takes the extra arguments ``value`` and ``grad``, they are passed and
        differentiated. Every method except ``mixed`` also passes ``value_fn`` and ``obj_fn``. docs/bilevel.md lists
        all optimizers of optax.
      method: ``mixed`` is exact and needs the memory of a plain step (MixFlow-MG, arXiv 2505.00793). ``reverse`` is
        exact; it is ``jax.grad`` through the unrolled steps and serves as the reference. The other methods are
        approximations at theta_K on the last inner batch: ``finite_difference`` (betty-ml's ``darts``), its limit
        ``first_order``, ``sama`` (arXiv 2310.05674) and ``implicit`` (arXiv 1911.02590). ``implicit`` is exact if
        theta_K minimizes the inner loss.
      has_aux: whether both losses return (scalar, aux).
      has_rng: whether both losses take a key as their last argument.
      tangent_loss: the inner loss for the forward-mode passes, with the same value as ``inner_loss``. Set it if
        ``inner_loss`` uses kernels with a ``custom_vjp``, which have no forward mode.
      reuse_forward: whether the tangent pass reuses the activations of the inner gradient instead of running its own
        forward pass. This saves a third of a plain step, or half of one with frozen weights, but keeps the activations
        in memory during the outer gradient. Only for ``mixed`` with K = 1 and one inner micro-batch. ``tangent_loss``
        is then unused, and ``inner_loss`` must have a forward mode.
      start_gradient: whether to return the cotangents of ``(params, opt_state)`` as well. Exact methods only.
      checkpoints: only for ``mixed``: how many points (theta_k, s_k) to store besides the start. The backward pass
        recomputes the inner steps between them, using the schedule with the fewest steps (``bilevel.checkpoints``).
        ``"gradients"`` stores every gradient instead, which takes one parameter tree per step and recomputes no inner
        step. It is the default if K <= 4 or if K such trees are smaller than the activations of one micro-batch
        (LoRA). Otherwise the default is the smallest number of points for which at most 3 K steps are run: 2 for
        K = 8, 5 for K = 32, 13 for K = 128.
      evaluation_params: (opt_state, params) -> the parameters to pass to the outer loss, such as
        ``optax.contrib.schedule_free_eval_params``.
      solver: the linear solver of ``implicit``; ``CG()`` by default.

    Returns:
      A ``MetaGradient``.

    Raises:
      ValueError: if the method is unknown, the method does not support an option, or ``optimizer`` is not an optax
        transformation.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: must be one of {', '.join(METHODS)}")
    if start_gradient and method not in EXACT:
        raise ValueError(f"start_gradient=True with method={method!r}: only {' and '.join(EXACT)} have it")
    if solver is not None and method != "implicit":
        raise ValueError(f"solver with method={method!r}: only method='implicit' solves a linear system")
    known = checkpoints in (None, "gradients") or (isinstance(checkpoints, int) and checkpoints >= 0)
    if not known or (checkpoints is not None and method != "mixed"):
        raise ValueError(
            f"checkpoints={checkpoints!r} with method={method!r}: only method='mixed' has it, a number or 'gradients'"
        )
    if not callable(getattr(optimizer, "update", None)):
        raise ValueError(f"optimizer={optimizer!r}: must be an optax.GradientTransformation, such as optax.adam(1e-3)")
    if reuse_forward and method != "mixed":
        raise ValueError(f"reuse_forward=True with method={method!r}: only method='mixed' has it")
    noticed = False

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
        end_gradient: Point | None = None,
        solution: PyTree | None = None,
    ) -> MetaGradientResult:
        nonlocal noticed
        check_floating(params, "params")
        check_floating(meta_params, "meta_params")
        unroll, micro = check_batch(inner_batch, "inner_batch", ("K", "M", "B"))
        if reuse_forward and (unroll, micro) != (1, 1):
            raise ValueError(f"reuse_forward=True with K={unroll} steps of M={micro} micro-batches: both must be 1")
        check_batch(outer_batch, "outer_batch", ("M", "B"))
        if has_rng and rng is None:
            raise ValueError("the losses take a key (has_rng=True): pass rng")
        if end_gradient is not None and method not in EXACT:
            raise ValueError(f"end_gradient with method={method!r}: only {' and '.join(EXACT)} use it")
        if solution is not None and method != "implicit":
            raise ValueError(f"solution with method={method!r}: only method='implicit' uses it")
        # Convert NumPy arrays and Python numbers, because the methods index the leaves with traced numbers.
        params, opt_state, meta_params, inner_batch, outer_batch, frozen = jax.tree.map(
            jnp.asarray, (params, opt_state, meta_params, inner_batch, outer_batch, frozen)
        )
        if not noticed and method in ("mixed", "reverse", "sama"):
            noticed = True
            warn_about(optimizer, params)
        outer_key, inner_key = jax.random.split(rng) if has_rng and rng is not None else (None, None)
        if inner_key is not None:
            inner_key = jax.random.split(inner_key, unroll) if unroll > 1 else inner_key[None]
        inner = uniform(inner_loss, has_aux, has_rng, frozen)
        problem = Problem(
            inner,
            inner if tangent_loss is None else uniform(tangent_loss, has_aux, has_rng, frozen),
            uniform(outer_loss, has_aux, has_rng, frozen),
            optimizer,
            reads_loss(optimizer, params, opt_state),
            evaluation_params,
            reuse_forward,
        )
        start, data = Point(params, opt_state), Data(inner_batch, inner_key, outer_batch, outer_key)
        if method == "reverse":
            found = exact.reverse(problem, start, meta_params, data, do_meta, end_gradient, start_gradient)
        elif method == "mixed":
            found = exact.mixed(problem, start, meta_params, data, do_meta, end_gradient, start_gradient, checkpoints)
        else:
            found = approximate.approximate(
                problem, method, start, meta_params, data, do_meta, solver or approximate.CG(), solution
            )
        norms = Norms(found.inner_norm, tree_norm(found.v), tree_norm(found.hypergradient))
        return MetaGradientResult(
            *found.end, found.hypergradient, found.inner_loss, found.outer_loss, found.inner_aux, found.outer_aux,
            norms, found.start_gradient, found.solution,
        )  # fmt: skip

    return meta_gradient


def check_floating(tree: PyTree, name: str) -> None:
    """Raises ValueError for the first leaf that is not floating."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}: every leaf must be floating; pass"
                " other leaves as frozen (bilevel.partition) or in the batch"
            )


def check_batch(batch: PyTree, name: str, axes: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the sizes of all axes in ``axes`` except the last. Raises ValueError if the leaves do not share them."""
    leading: tuple[int, ...] | None = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        shape = jnp.shape(leaf)
        found = shape[: len(axes) - 1]
        leading = found if leading is None else leading
        if len(found) < len(axes) - 1 or found != leading or 0 in found:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {shape}: expected [{', '.join(axes)}, ...], with the"
                f" same {' and '.join(axes[:-1])} in every leaf (bilevel.stack_batches, bilevel.split_batch)"
            )
    if leading is None:
        raise ValueError(
            f"{name} has no leaves: expected [{', '.join(axes)}, ...]; pass zeros where the loss needs no data"
        )
    return leading
