"""Run by test_mesh.py in a process of its own with 8 CPU devices: prints, as JSON, how far sharded runs are from one
device, for loss, gradient, Hessian-vector product and hypergradient."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.config import LoraConfig, MeshConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import init_params, step_logits
from dreamprm_jax.training.mesh import (
    activate,
    batch_sharding,
    init_sharded,
    make_mesh,
    parameter_shardings,
    replicated,
)

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
    remat="full",
    attention="chunked",
    attention_chunk=16,
    lora=LoraConfig(rank=2),
)
ROWS, LENGTH, STEPS = 8, 32, 4


def quantities(params, phi, tokens, positions, segments, index):
    """Loss, gradient, Hessian-vector product, and the gradient in phi of the loss's tangent along the gradient."""

    def loss(p, phi):
        logits = step_logits(CONFIG, p, tokens, positions, segments, index)
        return optax.sigmoid_binary_cross_entropy(logits, jax.nn.sigmoid(phi)).mean()

    value, gradient = jax.value_and_grad(loss)(params, phi)
    hvp = jax.jvp(lambda p: jax.grad(loss)(p, phi), (params,), (gradient,))[1]
    hyper = jax.grad(lambda phi: jax.jvp(lambda p: loss(p, phi), (params,), (gradient,))[1])(phi)
    return {"loss": value, "gradient": gradient, "hvp": hvp, "hypergradient": hyper}


def main(shapes: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 64, (ROWS, LENGTH)), jnp.int32)
    positions = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (ROWS, 1))
    index = jnp.tile(jnp.asarray([3, 10, 17, 31], jnp.int32), (ROWS, 1))
    inputs = (jnp.full((ROWS, STEPS), 0.3), tokens, positions, jnp.ones_like(tokens), index)
    params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    expected = jax.jit(quantities)(params, *inputs)
    report = {}
    for shape in shapes:
        mesh = make_mesh(MeshConfig(*shape))
        shardings, batch = parameter_shardings(CONFIG, mesh), batch_sharding(mesh)
        sharded = init_sharded(CONFIG, mesh, jax.random.key(0))
        out = {"loss": replicated(mesh), "gradient": shardings, "hvp": shardings, "hypergradient": batch}
        with activate(CONFIG, mesh):
            got = jax.jit(quantities, out_shardings=out)(sharded, *jax.device_put(inputs, batch))
        got["parameters"] = sharded
        differences = {}
        for name, tree in {**expected, "parameters": params}.items():
            pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(got[name]), strict=True)
            differences[name] = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
        kernel = sharded["decoder"]["layers"]["q"]["kernel"]
        local = [s.data.size for s in kernel.addressable_shards]
        report["x".join(map(str, shape))] = {"difference": differences, "fraction": max(local) / kernel.size}
    print(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
