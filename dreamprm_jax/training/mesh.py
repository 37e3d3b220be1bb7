"""The device mesh, and the table that maps logical axes to mesh axes.

Mesh axes: ``data`` (replicas of the parameters; the only axis that crosses slices), ``fsdp`` (parameters and batch are
sharded, parameters are gathered layer by layer, as in ZeRO-3), ``tensor`` (heads, mlp and vocabulary are sharded, as in
Megatron). Every array of a run gets its sharding here, from the logical axis names that ``models/decoder.py`` defines.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.fused import ways
from dreamprm_jax.models.reward import logical_specs
from dreamprm_jax.schema import DataError

AXES = ("data", "fsdp", "tensor")
AXIS_TYPES = (AxisType.Auto,) * len(AXES)  # the partitioner decides where there is no constraint
BATCH_AXES = ("data", "fsdp")

Rule = str | tuple[str, ...] | None
Rules = tuple[tuple[str, Rule], ...]

RULES: Rules = (
    # activations, and every table indexed by example
    ("batch", BATCH_AXES),
    ("replica_batch", "data"),  # the rows of all devices that together hold one copy of the parameters
    ("length", None),
    ("activation_embed", None),
    # parameters; heads, kv_heads and mlp name activation axes as well
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("head_hidden", None),
    ("layers", None),
    ("head_dim", None),
    ("norm", None),
    ("lora", None),
)


def mesh_shape(config: MeshConfig, device_count: int) -> tuple[int, int, int]:
    """Resolves the one axis that may be -1.

    Raises:
      DataError: if the axes do not multiply to the number of devices.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    named = "train.mesh " + " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise DataError(f"{named}: sizes must be at least 1, and at most one may be -1 (the devices that are left)")
    if -1 in sizes:
        sizes[sizes.index(-1)] = device_count // -math.prod(sizes)
    if math.prod(sizes) != device_count:
        raise DataError(f"{named} does not fit {device_count} devices: set one axis to -1 to take what is left")
    return (sizes[0], sizes[1], sizes[2])


def device_grid(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices in the shape of the mesh, with network neighbors next to each other. Only ``data`` crosses slices.

    A slice in jax is a TPU slice, or the GPUs of one node. The network between nodes is faster than that between TPU
    slices, so on GPUs ``fsdp`` may cross nodes if ``data`` does not; ``tensor`` never does.

    Raises:
      DataError: if the axes do not fit the slices, or the network of a slice.
    """
    named = "train.mesh " + " x ".join(f"{name}={size}" for name, size in zip(AXES, shape, strict=True))
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    count, sizes = len(slices), sorted({len(part) for part in slices.values()})
    if len(sizes) > 1:
        raise DataError(f"{named}: the {count} slices have {' or '.join(map(str, sizes))} devices; all must be equal")
    if shape[0] % count:
        if devices[0].platform == "gpu" and sizes[0] % shape[2] == 0:
            return np.asarray([device for index in sorted(slices) for device in slices[index]]).reshape(shape)
        raise DataError(
            f"{named}: data must be a multiple of the {count} slices (of {sizes[0]} devices each), as fsdp and tensor "
            "stay inside one"
        )
    inner = (shape[0] // count, *shape[1:])
    try:
        if count == 1:
            return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(inner, (count, 1, 1), devices, allow_split_physical_axes=True)
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{named}: the network of these devices does not hold this shape ({error})") from error


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the devices (all by default). Only ``data`` crosses slices.

    Raises:
      DataError: if the axes do not fit the devices or the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    return Mesh(device_grid(mesh_shape(config, len(devices)), devices), AXES, axis_types=AXIS_TYPES)


def own_mesh(config: MeshConfig) -> Mesh:
    """The mesh for work of a single process: all devices, or with several processes the process's own, on ``fsdp``."""
    if jax.process_count() == 1:
        return make_mesh(config)
    return make_mesh(MeshConfig(data=1, fsdp=-1, tensor=1), jax.local_devices())


def abstract_mesh(config: MeshConfig, device_count: int) -> AbstractMesh:
    """The shape of a mesh whose devices need not exist."""
    return AbstractMesh(mesh_shape(config, device_count), AXES, axis_types=AXIS_TYPES)


# ---------------------------------------------------------------- rules


def logical_rules(config: DecoderConfig, mesh: Mesh | AbstractMesh) -> Rules:
    """``RULES`` for this model on this mesh. Axes that are not divisible by their mesh axes are replicated.

    For example, two key/value heads on four tensor shards are replicated on each shard.
    """
    sizes = {
        "vocab": config.vocab_size,
        "embed": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "mlp": config.intermediate_size,
    }
    return tuple((name, rule if sizes.get(name, 0) % ways(mesh, rule) == 0 else None) for name, rule in RULES)


def mesh_spec(names: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """Maps logical axis names to mesh axes.

    Raises:
      ValueError: if a name has no rule, or two axes of the array map to the same mesh axis.
    """
    table = dict(rules)
    if unknown := [name for name in names if name is not None and name not in table]:
        raise ValueError(f"no sharding rule for the logical axes {unknown} of {tuple(names)}")
    axes = [None if name is None else table[name] for name in names]
    used = [a for axis in axes for a in ((axis,) if isinstance(axis, str) else axis or ())]
    if len(set(used)) < len(used):
        raise ValueError(f"logical axes {tuple(names)} map to {axes}: a mesh axis is used twice")
    return PartitionSpec(*axes)


def parameter_shardings(config: DecoderConfig, mesh: Mesh | AbstractMesh) -> Any:
    """A ``NamedSharding`` for every parameter."""
    rules = logical_rules(config, mesh)
    return jax.tree.map(
        lambda names: NamedSharding(mesh, mesh_spec(names, rules)),
        logical_specs(config),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def optimizer_shardings(
    optimizer: optax.GradientTransformation, params: Any, shardings: Any, mesh: Mesh | AbstractMesh
) -> Any:
    """The shardings of ``optimizer.init(params)``, for any optax transformation.

    A leaf of the state is sharded like a parameter if its path ends with the parameter's path and it has the same
    shape: moments, master weights. All other leaves are replicated: counters, factored moments, placeholders.

    Args:
      optimizer: any optax transformation.
      params: arrays or abstract arrays.
      shardings: shardings of ``params``.
      mesh: mesh for replicated leaves.
    """
    placed = {
        tuple(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path) + 1):
            shape, sharding = placed.get(tuple(path[start:]), (None, None))
            if sharding is not None and leaf.shape == shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params))


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of arrays whose first axis indexes examples: batches, label tables and their optimizer state."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def batch_ways(mesh: Mesh | AbstractMesh) -> int:
    """The number of shards of a batch: data x fsdp."""
    return ways(mesh, BATCH_AXES)


def check_divisible(mesh: Mesh | AbstractMesh, count: int, field: str) -> None:
    """Checks that ``count`` examples split evenly over the batch shards.

    Raises:
      DataError: if they do not; names ``field``.
    """
    shards = batch_ways(mesh)
    if count % shards:
        raise DataError(f"{field}={count} must be a multiple of data x fsdp = {shards}, the shards of a batch")


@contextlib.contextmanager
def activate(config: DecoderConfig, mesh: Mesh | AbstractMesh) -> Iterator[None]:
    """A context that sets the mesh, the precision of matrix products and the sharding rules of activations."""
    context = jax.sharding.use_abstract_mesh(mesh) if isinstance(mesh, AbstractMesh) else jax.set_mesh(mesh)
    # In bfloat16 there is no choice of precision, and the fused kernels support only their own.
    precision = config.matmul_precision if config.dtype == "float32" else None
    with context, jax.default_matmul_precision(precision), nn.logical_axis_rules(logical_rules(config, mesh)):
        yield
