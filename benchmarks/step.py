"""Times training steps of a configuration: seconds, tokens per second, utilization of the device.

    python benchmarks/step.py --config=configs/qwen2_5_coder_3b.py [--attention=cudnn] [--steps=10] [--peak-tflops=989]

Runs the trainer's own steps with made-up weights of the configuration's shape (the time does not depend on their
values), on the configuration's mesh. MFU counts ``training/flops.useful_flops``. ``--attention`` overrides the setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.config import Config, freeze
from dreamprm_jax.models.decoder import DecoderConfig, decoder_config
from dreamprm_jax.planning.inspect import Step, step_useful_flops, training_steps
from dreamprm_jax.training.chips import chip_of
from dreamprm_jax.training.mesh import activate, make_mesh


def read_config(path: str) -> Config:
    """The settings of a config file."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return freeze(module.get_config())


def concrete(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sharded arrays for abstract arguments: reals from 0 to 0.02, True for flags, zeros for everything else."""
    leaves, tree = jax.tree.flatten(arguments)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, leaf.dtype == bool and leaf.shape == (), leaf.dtype)
        axes = (jax.lax.broadcasted_iota(jnp.float32, leaf.shape, axis) * (axis + 1.3) for axis in range(leaf.ndim))
        return (0.01 + 0.01 * jnp.sin(sum(axes, jnp.zeros(leaf.shape)))).astype(leaf.dtype)

    made = jax.jit(lambda: [fill(leaf) for leaf in leaves], out_shardings=[leaf.sharding for leaf in leaves])()
    return jax.tree.unflatten(tree, made)


def measure_step(step: Step, count: int) -> dict[str, float]:
    """Median seconds of a call after one warm-up call, GB that the compiled step needs, and seconds to compile it."""
    start = time.perf_counter()
    compiled = jax.jit(step.function, donate_argnums=0).lower(*step.arguments).compile()
    compiling, memory = time.perf_counter() - start, compiled.memory_analysis()
    state, *rest = concrete(step.arguments)
    times = []
    for _ in range(count + 1):
        start = time.perf_counter()
        result = compiled(state, *rest)
        jax.block_until_ready(result)
        times.append(time.perf_counter() - start)
        state = result[0]
    gigabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
    return {"seconds": float(np.median(times[1:])), "gigabytes": gigabytes, "compile_seconds": compiling}


def measure(
    config: Config, model: DecoderConfig, count: int, peak: float, only: str | None = None
) -> Iterator[dict[str, Any]]:
    """Figures of each step (or of one) of the configuration: seconds, tokens/s, MFU (0 without a peak), gigabytes."""
    mesh = make_mesh(config.train.mesh)
    tokens = config.train.batch_size * config.train.row_tokens
    for step in training_steps(config, model, mesh):
        if only not in (None, step.name):
            continue
        with activate(model, mesh):
            found = measure_step(step, count)
        available = peak * 1e12 * mesh.devices.size * found["seconds"]
        mfu = step_useful_flops(step, config, model) / available if available else 0.0
        yield {"step": step.name, **found, "tokens_per_second": tokens / found["seconds"], "mfu": mfu}


def device_peak() -> float:
    """Peak TFLOP/s of one of this machine's devices; 0 if it is unknown."""
    chip = chip_of(jax.devices()[0].device_kind)
    return chip.peak_flops / 1e12 if chip else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--attention", choices=["auto", "einsum", "chunked", "splash", "triton", "cudnn"])
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
    peak = options.peak_tflops or device_peak()
    shape = f"{train.batch_size} rows of {train.row_tokens} tokens"
    print(f"{config.name}: {shape}, {model.attention}, {jax.devices()[0].device_kind}")
    print(f"{'':<14} {'seconds':>9} {'tokens/s':>12} {'MFU':>7} {'GB':>7}")
    for found in measure(dataclasses.replace(config, train=train), model, options.steps, peak):
        mfu = f"{100 * found['mfu']:.1f}%" if found["mfu"] else "-"
        figures = f"{found['seconds']:>9.3f} {found['tokens_per_second']:>12,.0f} {mfu:>7} {found['gigabytes']:>7.1f}"
        print(f"{found['step']:<14} {figures}", flush=True)


if __name__ == "__main__":
    main()
