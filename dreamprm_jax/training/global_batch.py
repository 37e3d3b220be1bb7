"""Batches on the mesh. Every process reads only the rows that its own devices hold."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.mesh import batch_sharding, replicated


def step_batch(rows: PackedRows, steps: Sequence[int], micro: int, mesh: Mesh) -> Batch:
    """The batches of consecutive steps, on the mesh.

    Args:
      rows: rows to read from.
      steps: K steps, whose batches are stacked; a single step adds no axis.
      micro: M, the number of micro-batches of each batch, which it must divide; 1 adds no axis.
      mesh: the mesh; the rows of a micro-batch are sharded over data and fsdp.

    Returns:
      Leaves [(K,) (M,) B / M, ...].
    """
    size = rows.batch_size // micro
    leading = (len(steps),) * (len(steps) > 1) + (micro,) * (micro > 1)
    own = local_rows(mesh, size)
    places = [part * size + row for part in range(micro) for row in own]
    batches = [rows.batch(step, places if len(own) < size else None) for step in steps]
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * len(leading), *batch_sharding(mesh).spec))

    def place(*leaves: np.ndarray) -> jax.Array:
        local = np.stack(leaves).reshape(*leading, len(own), *leaves[0].shape[1:])
        return jax.make_array_from_process_local_data(
            sharding, local, (*leading, size, *local.shape[len(leading) + 1 :])
        )

    return Batch(*(place(*leaves) for leaves in zip(*batches, strict=True)))


def whole_batches(rows: PackedRows, steps: Sequence[int]) -> Batch:
    """The rows of the batches of ``steps`` on the host, concatenated."""
    batches = [rows.batch(step) for step in steps]
    return Batch(*(np.concatenate(leaves) for leaves in zip(*batches, strict=True)))


def local_rows(mesh: Mesh, size: int) -> list[int]:
    """Indices of those of ``size`` rows that the devices of this process hold."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for part in parts if part for row in range(size)[part[0]]})


def from_every_process(batch: Batch, mesh: Mesh) -> Batch:
    """Puts a batch that every process has completely on the mesh."""

    def place(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, batch_sharding(mesh), lambda index: leaf[index])

    return Batch(*(place(np.asarray(leaf)) for leaf in batch))


def flag_per_device(value: bool, mesh: Mesh) -> jax.Array:
    """One flag per device, with the value of the device's process."""
    if jax.process_count() == 1:
        return jax.device_put(np.full(mesh.size, value), replicated(mesh))
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    local = len(sharding.addressable_devices)
    return jax.make_array_from_process_local_data(sharding, np.full(local, value), (mesh.size,))
