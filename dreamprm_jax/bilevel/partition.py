"""Splitting pytrees: trainable and frozen leaves, and batches into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def partition(tree: PyTree, is_trainable: Callable[[tuple[str, ...], Any], bool]) -> tuple[PyTree, PyTree]:
    """Splits a tree into its trainable and its frozen part.

    Args:
      tree: parameters.
      is_trainable: called with a leaf's path (key names) and the leaf.

    Returns:
      (trainable, frozen): trees of the same structure. Each has None at the leaves that the other holds. JAX treats
      None as an empty pytree, so either part can be passed to an optimizer unchanged. ``merge`` undoes the split.
    """

    def pick(wanted: bool) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if bool(is_trainable(_names(path), leaf)) is wanted else None, tree
        )

    return pick(True), pick(False)


def merge(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Merges the two parts from ``partition``.

    Raises:
      ValueError: if the trees differ in structure, or if both hold a leaf at the same path.
    """

    def choose(path: tuple[Any, ...], ours: Any, theirs: Any) -> Any:
        if ours is not None and theirs is not None:
            raise ValueError(f"{'/'.join(_names(path))}: held by both parts; one of them must be None there")
        return theirs if ours is None else ours

    return jax.tree_util.tree_map_with_path(choose, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def split_batch(batch: PyTree, count: int = 1) -> PyTree:
    """Splits every leaf [B, ...] into micro-batches [count, B / count, ...], the layout of an outer batch.

    Micro-batch j takes the rows j, j + count, j + 2 count, ... If B is sharded over devices, every device therefore
    holds an equal share of each micro-batch, and no rows move between devices.

    Raises:
      ValueError: if ``count`` does not divide B.
    """

    def cut(leaf: Any) -> Any:
        shape = jnp.shape(leaf)
        if not shape or shape[0] % count:
            raise ValueError(f"a leaf of shape {shape} does not cut into {count} equal micro-batches of rows")
        return leaf.reshape(shape[0] // count, count, *shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def stack_batches(batches: Iterable[PyTree], count: int = 1) -> PyTree:
    """Stacks K batches with leaves [B, ...] to [K, count, B / count, ...], the layout of an inner batch.

    Raises:
      ValueError: if ``count`` does not divide B, or if there are no batches.
    """
    if not (cut := [split_batch(batch, count) for batch in batches]):
        raise ValueError("no batches: at least one inner step is needed")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *cut)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
