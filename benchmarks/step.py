"""Training steps at a configuration's shape: seconds, tokens per second, utilisation of the device.

    python benchmarks/step.py --config=configs/qwen2_5_coder_3b.py [--attention=cudnn] [--steps=10] [--peak-tflops=989]

Random weights in the configuration's shape (time does not depend on their values), the trainer's own steps, on the mesh
of the configuration. MFU counts the model's matrix products once; HFU counts what rematerialisation computes again as
well. ``--attention`` overrides the configuration's; a fused kernel runs the plain step alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.config import Config, freeze
from dreamprm_jax.models.decoder import DecoderConfig, decoder_config
from dreamprm_jax.training.flops import matrix_flops
from dreamprm_jax.training.inspect import Step, training_steps
from dreamprm_jax.training.mesh import activate, make_mesh

# Dense bfloat16 TFLOP/s, from the vendors' data sheets; matched at the start of the device's name.
PEAK = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100": 989.0,
    "NVIDIA A100": 312.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}


def read_config(path: str) -> Config:
    """The settings of a config file."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return freeze(module.get_config())


def concrete(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays for abstract arguments, made in their shards: small random reals, zeros elsewhere."""
    leaves, tree = jax.tree.flatten(arguments)

    def make() -> list[jax.Array]:
        keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))
        return [
            0.02 * jnp.abs(jax.random.normal(key, leaf.shape, leaf.dtype))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]

    return jax.tree.unflatten(tree, jax.jit(make, out_shardings=[leaf.sharding for leaf in leaves])())


def seconds(step: Step, count: int) -> float:
    """Median time of a call, after one to compile and one to warm up."""
    state, *rest = concrete(step.arguments)
    if step.name == "bi-level step":
        rest[-1] = jnp.asarray(True)
    run = jax.jit(step.function, donate_argnums=0)
    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        result = run(state, *rest)
        jax.block_until_ready(result)
        times.append(time.perf_counter() - start)
        state = result[0]
    return float(np.median(times[2:]))


def measure(config: Config, model: DecoderConfig, count: int, peak: float) -> None:
    """Prints a row for each step of the configuration."""
    mesh = make_mesh(config.train.mesh)
    # The products of the model alone: nothing computed twice.
    once = {
        s.name: s for s in training_steps(config, dataclasses.replace(model, remat="none", attention="einsum"), mesh)
    }
    for step in training_steps(config, model, mesh):
        with activate(model, mesh):
            taken = seconds(step, count)
            model_flops = matrix_flops(once[step.name].function, *once[step.name].arguments)
            # A fused kernel is no matrix product to the tracer; then only the first figure is known.
            all_flops = 0 if model.attention == "cudnn" else matrix_flops(step.function, *step.arguments)
        available = peak * 1e12 * mesh.devices.size * taken
        tokens = config.train.batch_size * config.train.row_tokens
        shares = [f"{100 * f / available:.1f}%" if available and f else "-" for f in (model_flops, all_flops)]
        print(f"{step.name:<14} {taken:>9.3f} {tokens / taken:>12,.0f} {shares[0]:>7} {shares[1]:>7}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--attention", choices=["einsum", "chunked", "cudnn"])
    parser.add_argument("--rows", type=int, help="rows of the batch")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, help="of one device, for devices that the table lacks")
    options = parser.parse_args()
    config = read_config(options.config)
    model = decoder_config(dataclasses.replace(config.model, weights=""))
    train = config.train
    if options.rows:
        meta = dataclasses.replace(train.meta, batch_size=options.rows)
        train = dataclasses.replace(train, batch_size=options.rows, meta=meta)
    if options.attention:
        model = dataclasses.replace(model, attention=options.attention)
    if model.attention == "cudnn":
        train = dataclasses.replace(train, arms=("raw",))
    device = jax.devices()[0]
    known = [value for name, value in PEAK.items() if device.device_kind.startswith(name)]
    peak = options.peak_tflops or (known[0] if known else 0.0)
    print(
        f"{config.name}: {train.batch_size} rows of {train.row_tokens} tokens, {model.attention}, {device.device_kind}"
    )
    print(f"{'':<14} {'seconds':>9} {'tokens/s':>12} {'MFU':>7} {'HFU':>7}")
    measure(dataclasses.replace(config, train=train), model, options.steps, peak)


if __name__ == "__main__":
    main()
