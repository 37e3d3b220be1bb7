"""The label table on the mesh: padded to whole shards, and sharded as the batch index is.

The padded length does not depend on the mesh, so that a checkpoint restores onto any other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from dreamprm_jax.training.mesh import batch_sharding, batch_ways, replicated

MULTIPLE = 4096  # divisible by data x fsdp of any mesh of a power of two up to this many devices
PADDING = 0.5  # label of rows that belong to no step; no batch holds them, so they never move


def padded_rows(count: int) -> int:
    """Rows of the table of ``count`` labels."""
    return -(-count // MULTIPLE) * MULTIPLE


def pad_labels(raw: Float[Any, " n"], rows: int) -> Float[Array, " rows"]:
    """The raw labels, then padding."""
    return jnp.pad(jnp.asarray(raw), (0, rows - len(raw)), constant_values=PADDING)


def table_sharding(mesh: Mesh | Any, rows: int) -> NamedSharding:
    """Over data and fsdp; on every device where they do not divide the rows."""
    return batch_sharding(mesh) if rows % batch_ways(mesh) == 0 else replicated(mesh)


def place_table(tree: Any, mesh: Mesh) -> Any:
    """Puts a table, or its optimizer state, onto the mesh; the first axis of every leaf counts rows."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, table_sharding(mesh, leaf.shape[0])), tree)


def place_replicated(tree: Any, mesh: Mesh) -> Any:
    """Puts the parameters of a network that corrects labels, or their optimizer state, onto every device."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, replicated(mesh)), tree)
