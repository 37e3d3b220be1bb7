"""Run by test_meta_gradient.py in a process with eight fake devices. Prints one JSON object per kind of mesh and K."""

import contextlib
import json
from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dreamprm_jax.bilevel import make_meta_gradient


def main() -> None:
    """Runs an MLP with 16 features and 32 units. phi has one row per example, sharded like the batch."""
    rng = np.random.default_rng(0)
    params = {"dense": jnp.asarray(rng.normal(size=(16, 32)) / 4), "head": jnp.asarray(rng.normal(size=32))}
    optimizer = optax.chain(optax.clip_by_global_norm(0.02), optax.adamw(0.05, eps_root=1e-16))
    x, labels = jnp.asarray(rng.normal(size=(64, 16))), jnp.asarray(rng.integers(0, 2, 64).astype(np.float32))
    phi = jnp.asarray(rng.normal(size=64), jnp.float32)

    def run(mesh: Any, unroll: int) -> Any:
        explicit = mesh is not None and mesh.axis_types[0] == AxisType.Explicit

        def product(x: jax.Array, weights: jax.Array, out: PartitionSpec) -> jax.Array:
            return jnp.matmul(x, weights, out_sharding=out) if explicit else x @ weights

        def logits(params: Any, x: jax.Array) -> jax.Array:
            hidden = jnp.tanh(product(x, params["dense"], PartitionSpec("fsdp", "tensor")))
            return product(hidden, params["head"], PartitionSpec("fsdp"))

        def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, x), jax.nn.sigmoid(phi)))

        def outer(params: Any, batch: Any) -> jax.Array:
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), batch["y"]))

        def put(leaf: jax.Array) -> jax.Array:
            if mesh is None:
                return leaf
            spec = PartitionSpec("fsdp", "tensor") if leaf.shape == (16, 32) else PartitionSpec()
            if 64 in leaf.shape:  # one row per example
                spec = PartitionSpec(*(None,) * leaf.shape.index(64), "fsdp")
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        inner_batch = jnp.stack([x[None] + step for step in range(unroll)])
        arguments = (
            params,
            toy.warm_state(optimizer, params),
            phi,
            inner_batch,
            {"x": x[None] + 1.0, "y": labels[None]},
        )
        function = jax.jit(make_meta_gradient(inner, outer, optimizer))
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            return function(*jax.tree.map(put, arguments))

    for unroll in (1, 2):
        plain = run(None, unroll)
        for kind in (AxisType.Auto, AxisType.Explicit):
            sharded = run(jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(kind,) * 2), unroll)
            report = {
                "case": f"{kind.name}, K = {unroll}",
                "devices": len(jax.devices()),
                "hypergradient_error": toy.relative_error(sharded.hypergradient, plain.hypergradient),
                "params_error": toy.relative_error(sharded.params, plain.params),
                "dense": str(tuple(sharded.params["dense"].sharding.spec)),
                "moment": str(tuple(sharded.opt_state[1][0].mu["dense"].sharding.spec)),
                "hypergradient": str(tuple(sharded.hypergradient.sharding.spec)),
            }
            print(json.dumps(report))


if __name__ == "__main__":
    main()
