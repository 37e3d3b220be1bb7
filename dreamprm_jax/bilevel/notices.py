"""Warnings about optimizers whose derivative is always zero or nan, found by a trial run on a tiny problem."""

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
    """The hypergradient through this optimizer is zero or nan for any losses."""


def warn_about(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Warns if no derivative passes through the optimizer's update.

    The optimizer is tried on parameters of the same structure, with every axis cut to size two. If it does not accept
    them, for example because it needs the loss or certain shapes, there is no warning.
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
    """Describes what is wrong with d update / d gradient at generic nonzero gradients. Returns None if nothing is."""
    state = jax.jit(optimizer.init)(params)
    generic = jax.tree.map(lambda leaf: _generic(leaf.shape, leaf.dtype), params)

    @jax.jit
    def tried(point: Point, size: Array) -> tuple[Point, Array, Array, Array]:
        gradients = jax.tree.map(lambda leaf: (size * leaf).astype(leaf.dtype), generic)

        def update(gradients: PyTree) -> tuple[PyTree, PyTree]:
            return optimizer.update(gradients, point.opt_state, point.params)

        updates, pull, state = jax.vjp(update, gradients, has_aux=True)
        slope = pull(jax.tree.map(_ones, updates))[0]
        # A zero slope is a fault only if the update changes with the sign of the gradient. Otherwise the gradient may
        # act later, through the state that the next step reads.
        reversed_updates = update(jax.tree.map(jnp.negative, gradients))[0]
        moves = sum((jnp.sum(jnp.abs(a - b)) for a, b in _pairs(updates, reversed_updates)), start=jnp.zeros(()))
        size = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)), start=jnp.zeros(()))
        return Point(optax.apply_updates(point.params, updates), state), size, moves, jnp.isfinite(size)

    point, sizes, moves, finite = Point(params, state), [], [], []
    for step in range(TRIED_STEPS):  # several steps, because quasi-Newton methods divide by the change of the gradient
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


# These use NumPy, because many small operations on a device would take longer than the rest of the trial.
def _generic(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return (0.3 * np.sin(1.0 + 2.3 * np.arange(math.prod(shape)))).reshape(shape).astype(dtype)


def _ones(leaf: Array) -> np.ndarray:
    return (1.0 + 0.37 * np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


def _pairs(left: PyTree, right: PyTree) -> Any:
    return zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)


def _span(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
