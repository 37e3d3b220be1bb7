"""Run by test_meta_gradient.py in a process with eight fake devices; prints one JSON object."""

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
    """An MLP of 16 features and 32 units; phi has one row an example, sharded like the batch."""
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rng = np.random.default_rng(0)
    params = {"dense": jnp.asarray(rng.normal(size=(16, 32)) / 4), "head": jnp.asarray(rng.normal(size=32))}
    optimizer = optax.chain(optax.clip_by_global_norm(0.02), optax.adamw(0.05, eps_root=1e-16))
    x, labels = jnp.asarray(rng.normal(size=(64, 16))), jnp.asarray(rng.integers(0, 2, 64).astype(np.float32))
    phi = jnp.asarray(rng.normal(size=64), jnp.float32)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["dense"]) @ params["head"]

    def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, x), jax.nn.sigmoid(phi)))

    def outer(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), batch["y"]))

    def place(tree: Any) -> Any:
        def put(leaf: jax.Array) -> jax.Array:
            spec = PartitionSpec("fsdp", "tensor") if leaf.shape == (16, 32) else PartitionSpec()
            if 64 in leaf.shape:  # rows
                axis = leaf.shape.index(64)
                spec = PartitionSpec(*(None,) * axis, "fsdp")
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        return jax.tree.map(put, tree)

    arguments = (params, toy.warm_state(optimizer, params), phi, x[None, None], {"x": x[None] + 1.0, "y": labels[None]})
    function = make_meta_gradient(inner, outer, optimizer)
    plain = jax.jit(function)(*arguments)
    with jax.set_mesh(mesh):
        sharded = jax.jit(function)(*place(arguments))
    report = {
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
