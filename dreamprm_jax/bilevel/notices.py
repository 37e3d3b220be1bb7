"""Warnings about optimizers whose derivative is zero or nan by nature, found by trying them once on a tiny problem."""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.bilevel.partition import PyTree
from dreamprm_jax.bilevel.problem import Point

if TYPE_CHECKING:
    from jaxtyping import Array

TRIED_STEPS = 12


class HypergradientWarning(UserWarning):
    """The hypergradient through this optimizer is zero or nan, whatever the losses are."""


def warn_about(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Warns when no derivative passes through the optimizer's update.

    The optimizer is tried on parameters of the same tree, each axis cut to two. An optimizer that does not accept those
    (it needs the loss, or certain shapes) is not judged.
    """
    leaves, treedef = jax.tree.flatten(params)
    try:
        finding = _finding(
            optimizer, treedef, tuple(tuple(min(2, size) for size in jnp.shape(leaf)) for leaf in leaves)
        )
    except Exception:
        return
    if finding is not None:
        warnings.warn(finding, HypergradientWarning, stacklevel=3)


def derivative_by_nature(optimizer: optax.GradientTransformation, params: PyTree) -> str | None:
    """What is wrong with d update / d gradient at generic non-zero gradients; None where nothing is."""
    state = jax.jit(optimizer.init)(params)
    generic = jax.tree.map(lambda leaf: _generic(leaf.shape, leaf.dtype), params)

    @jax.jit
    def tried(point: Point, size: Array) -> tuple[Point, Array, Array, Array]:
        gradients = jax.tree.map(lambda leaf: (size * leaf).astype(leaf.dtype), generic)

        def update(gradients: PyTree) -> tuple[PyTree, PyTree]:
            return optimizer.update(gradients, point.opt_state, point.params)

        updates, pull, state = jax.vjp(update, gradients, has_aux=True)
        slope = pull(jax.tree.map(_ones, updates))[0]
        # By a state that the next step reads, a gradient may act later; signs and constants never do.
        reversed_updates = update(jax.tree.map(jnp.negative, gradients))[0]
        moves = sum((jnp.sum(jnp.abs(a - b)) for a, b in _pairs(updates, reversed_updates)), start=jnp.zeros(()))
        size = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)), start=jnp.zeros(()))
        return Point(optax.apply_updates(point.params, updates), state), size, moves, jnp.isfinite(size)

    point, sizes, moves, finite = Point(params, state), [], [], []
    for step in range(TRIED_STEPS):  # quasi-Newton methods divide by the change of the gradient
        point, size, moved, good = tried(point, 1 + 0.1 * math.sin(1.0 + step))
        sizes.append(float(size))
        moves.append(float(moved))
        finite.append(bool(good))
    if not all(finite):
        bad = [index for index, good in enumerate(finite) if not good]
        when = "at every step" if len(bad) == TRIED_STEPS else f"at step{'s' * (len(bad) > 1)} {_span(bad)}"
        return (
            f"the derivative of this optimizer's update is not finite {when} (counted from 0), and so is the"
            " hypergradient; take those steps with do_meta=False, or choose another optimizer (docs/bilevel.md)"
        )
    if max(moves) > 0 and max(sizes) == 0:
        return (
            "this optimizer's update depends on the gradient only through its sign or not smoothly at all: its"
            " derivative, and so the exact hypergradient, is zero everywhere; choose another optimizer, or"
            " method='first_order' (docs/bilevel.md)"
        )
    return None


@functools.lru_cache(maxsize=64)
def _finding(optimizer: optax.GradientTransformation, treedef: Any, shapes: tuple[tuple[int, ...], ...]) -> str | None:
    with jax.ensure_compile_time_eval():
        leaves = [0.5 + _generic(shape, np.float32) for shape in shapes]
        return derivative_by_nature(optimizer, jax.tree.map(jnp.asarray, jax.tree.unflatten(treedef, leaves)))


# By NumPy, as many small operations on a device take longer than the rest of the trial.
def _generic(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return (0.3 * np.sin(1.0 + 2.3 * np.arange(math.prod(shape)))).reshape(shape).astype(dtype)


def _ones(leaf: Array) -> np.ndarray:
    return (1.0 + 0.37 * np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


def _pairs(left: PyTree, right: PyTree) -> Any:
    return zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)


def _span(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
