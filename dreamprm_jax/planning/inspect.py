"""``dreamprm inspect``: memory and FLOPs of a configuration, without the devices that it needs.

Prints parameter counts, shardings and bytes per device. It also compiles one plain and one bi-level step on abstract
shapes, and prints their memory and FLOPs. The mesh need not exist: libtpu compiles for a TPU topology, and the CPU
compiler for any number of devices. The CPU compiler computes bfloat16 products in float32, so its figures are upper
bounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import ONLINE
from dreamprm_jax.models.decoder import DecoderConfig, decoder_config
from dreamprm_jax.models.fused import taking
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.pretrained import check_weights, model_config
from dreamprm_jax.planning.cost_model import Cost, kernel_seconds, module_cost
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.arms import arm_plans
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.chips import CHIPS, chip_of
from dreamprm_jax.training.feed import Batch, row_length
from dreamprm_jax.training.flops import matrix_flops, useful_flops
from dreamprm_jax.training.label_table import LabelStart, padded_rows
from dreamprm_jax.training.loop import make_plain_step
from dreamprm_jax.training.losses import make_inner_loss
from dreamprm_jax.training.mesh import (
    RULES,
    activate,
    batch_sharding,
    check_divisible,
    logical_rules,
    make_mesh,
    replicated,
)
from dreamprm_jax.training.online_label_inference import alive_posterior
from dreamprm_jax.training.optimizer import make_optimizer
from dreamprm_jax.training.state import abstract_state, placed, placed_params, without_dropout
from dreamprm_jax.training.steps import StepInputs, make_bilevel_step, pass_models

GB = 1e9


class Step(NamedTuple):
    """A function to compile and its abstract arguments; the first one is donated, as in training."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


# ---------------------------------------------------------------- devices


def target_devices(config: Config) -> list[jax.Device]:
    """The devices to compile for: those of a topology, a given number of CPU devices, or those of this machine.

    Raises:
      DataError: if libtpu is missing or does not know the topology, or jax has already started with other devices.
    """
    settings = config.inspect
    if settings.topology:
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU host to query
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor a TPU to lock against other processes
        try:
            name, _, slices = settings.topology.partition("*")
            several = {"num_slices": int(slices)} if slices else {}
            chips = topologies.get_topology_desc(topology_name=name, platform="tpu", **several).devices
            return list(chips[: settings.devices or None])
        except Exception as error:  # the plugin may raise any exception
            raise DataError(
                f"inspect.topology={settings.topology!r}: no such TPU topology, or no libtpu here "
                f"(pip install libtpu, in the version of jax[tpu]): {error}"
            ) from error
    if settings.devices:
        with contextlib.suppress(RuntimeError):  # jax has already started, maybe with exactly these devices
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", settings.devices)
        if len(jax.devices()) != settings.devices:
            raise DataError(f"inspect.devices={settings.devices}: jax has started already; use a new process")
    return jax.devices()


# ---------------------------------------------------------------- abstract state


def _abstract_batch(config: Config, rows: int, micro: int, mesh: Mesh | AbstractMesh) -> Batch:
    """Leaves [rows, ...], or [micro, rows / micro, ...] with accumulation."""
    lead = (micro,) * (micro > 1)
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * len(lead), *batch_sharding(mesh).spec))
    tokens, steps = (rows // micro, row_length(config.train.row_tokens)), (rows // micro, config.inspect.steps_per_row)
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys(("tokens", "positions", "segments"), tokens)
    sizes |= dict.fromkeys(("label_share", "outcome_share"), tokens[:1])
    kinds = dict.fromkeys(("label_mask", "outcome_mask"), jnp.bool_)
    kinds |= dict.fromkeys(("raw", "outcome", "label_share", "outcome_share"), jnp.float32)
    fields = {
        name: jax.ShapeDtypeStruct((*lead, *sizes.get(name, steps)), kinds.get(name, jnp.int32))
        for name in Batch._fields
    }
    return placed(Batch(**fields), sharding)


def training_steps(config: Config, model: DecoderConfig, mesh: Mesh | AbstractMesh) -> list[Step]:
    """The plain step (of an online arm, if there is one) and, if labels are learned, the bi-level step; abstract."""
    _, frozen = split_trainable(model, placed_params(model, mesh))
    optimizer = make_optimizer(config.train)
    batch = _abstract_batch(config, config.train.batch_size, config.train.accumulation, mesh)

    arms = arm_plans(config.train)
    online = any(plan.labeling in ONLINE for plan in arms)
    infer = functools.partial(alive_posterior, hidden=0.05) if online else None  # the program does not depend on q
    plain_loss = make_inner_loss(taking(model, "once"), None, config.train.outcome_weight, infer=infer)

    # Both steps are compiled without LoRA's dropout.
    def plain(state: TrainState, frozen: Any, batch: Batch) -> Any:
        return make_plain_step(plain_loss, optimizer, config.train.accumulation)(
            state, StepInputs(batch, frozen=frozen)
        )

    steps = [Step("plain step", plain, (abstract_state(config.train, model, mesh), frozen, batch))]
    if not any(plan.learned for plan in arms):
        return steps
    labels = LabelTable(config.train.labels.floor)
    phi = jax.ShapeDtypeStruct((padded_rows(config.inspect.labels),), jnp.float32)
    start = placed(LabelStart(phi, jax.ShapeDtypeStruct((), jnp.int32)), replicated(mesh))  # type: ignore[arg-type]
    # With one inner step; an unroll of K takes K of them, and the backward pass through each.
    one = dataclasses.replace(config.train, meta=dataclasses.replace(config.train.meta, unroll=1))
    inner_loss, tangent_loss = (
        make_inner_loss(of_pass, labels, config.train.outcome_weight) for of_pass in pass_models(model, one.meta)
    )
    learn = make_bilevel_step(without_dropout(model), inner_loss, labels, optimizer, one, tangent_loss=tangent_loss)

    def bilevel(state: TrainState, frozen: Any, batch: Batch, outer: Batch, do_meta: Any, start: LabelStart) -> Any:
        return learn(state, StepInputs(batch, outer, do_meta, frozen, labels=start))

    outer = _abstract_batch(config, config.train.meta.batch_size, config.train.meta.accumulation, mesh)
    do_meta = placed(jax.ShapeDtypeStruct((), jnp.bool_), replicated(mesh))
    state = abstract_state(config.train, model, mesh, labels, phi)
    return [*steps, Step("bi-level step", bilevel, (state, frozen, batch, outer, do_meta, start))]


# ---------------------------------------------------------------- report


def device_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of the shard on one device."""
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding is not None else leaf.shape
    return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize


def total(tree: Any) -> tuple[int, int]:
    """(elements, bytes per device) of a pytree of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(x.shape, dtype=np.int64)) for x in leaves), sum(map(device_bytes, leaves))


def parameter_lines(model: DecoderConfig, mesh: Mesh) -> Iterator[str]:
    """One line per parameter: shape, dtype, mesh axes, bytes per device."""
    params = placed_params(model, mesh)
    yield f"{'parameter':<42} {'shape':<24} {'dtype':<9} {'sharding':<34} {'MB/device':>10}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = "(" + ", ".join("-" if axis is None else str(axis) for axis in leaf.sharding.spec) + ")"
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        yield f"{name:<42} {shape:<24} {leaf.dtype.name:<9} {spec:<34} {device_bytes(leaf) / 1e6:>10.2f}"
    kept = dict(logical_rules(model, mesh))
    if whole := [name for name, rule in RULES if rule != kept[name]]:
        yield f"kept whole, as the mesh does not divide them: {', '.join(whole)}"


def compile_step(step: Step, model: DecoderConfig, mesh: Mesh) -> Any:
    """The step, compiled by the compiler of the mesh's platform.

    Raises:
      MemoryError: if the compiler reports that the step does not fit; contains the compiler's message.
    """
    options: dict[str, str | bool] | None = (
        {"xla_cpu_enable_concurrency_optimized_scheduler": False} if _platform(mesh) == "cpu" else None
    )
    with activate(model, mesh):
        lowered = jax.jit(step.function, donate_argnums=0).lower(*step.arguments)
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise MemoryError(str(error).splitlines()[0][:300]) from error


def step_flops(step: Step, model: DecoderConfig, mesh: Mesh | AbstractMesh) -> int:
    """Matrix FLOPs of one step, on all devices together."""
    with activate(model, mesh):
        return matrix_flops(step.function, *step.arguments)


def compiled_lines(step: Step, config: Config, model: DecoderConfig, mesh: Mesh) -> tuple[list[str], bool]:
    """Compiles and describes a step. Returns the lines, and whether the step fits ``config.inspect.memory_gb``."""
    devices, flops, memory_gb = mesh.devices.size, step_flops(step, model, mesh), config.inspect.memory_gb
    try:
        compiled = compile_step(step, model, mesh)
    except MemoryError as error:
        return [f"{step.name:<14} does not fit, says the compiler: {error}"], False
    memory = compiled.memory_analysis()
    if memory is None:
        return [f"{step.name:<14} compiles; this compiler gives no memory figures"], True
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes
    line = (
        f"{step.name:<14} {memory.argument_size_in_bytes / GB:>9.3f} {memory.temp_size_in_bytes / GB:>9.3f} "
        f"{outputs / GB:>9.3f} {peak / GB:>9.3f} {flops / devices / 1e12:>12.3f}"
    )
    fits = not memory_gb or peak <= memory_gb * GB
    if memory_gb:
        line += f"   {'fits' if fits else 'DOES NOT FIT'} {memory_gb:g} GB ({100 * peak / GB / memory_gb:.0f}%)"
    cost = predicted_cost(compiled.as_text(), config, model, mesh)
    return [line, *([] if cost is None else _cost_lines(step, cost, config, model, devices))], fits


def predicted_cost(
    text: str, config: Config, model: DecoderConfig, mesh: Mesh, cycles: Mapping[str, tuple[int, int]] | None = None
) -> Cost | None:
    """Seconds of a step by the TPU compiler's cost model; None for chips other than a v5p.

    Args:
      text: text of the compiled module.
      config: settings of the run.
      model: decoder of the run.
      mesh: mesh that the step is compiled for.
      cycles: cycles of the kernels (``kernel_seconds``); None: the stored ones.
    """
    if chip_of(mesh.devices.flat[0].device_kind) is not CHIPS["v5p"]:
        return None
    heads = model.num_heads // mesh.shape["tensor"]
    return module_cost(text, kernel_seconds(heads, model.head_dim, row_length(config.train.row_tokens), cycles))


def step_useful_flops(step: Step, config: Config, model: DecoderConfig) -> float:
    """Useful FLOPs of a step on all devices (``flops.useful_flops``)."""
    train = config.train
    extra = (train.meta.batch_size, train.batch_size) if step.name == "bi-level step" else (0, 0)
    return useful_flops(model, row_length(train.row_tokens), train.batch_size, *extra)


def _cost_lines(step: Step, cost: Cost, config: Config, model: DecoderConfig, devices: int) -> list[str]:
    share = step_useful_flops(step, config, model) / (devices * CHIPS["v5p"].peak_flops * cost.seconds)
    tables = [cost.parts] + ([cost.phases] if len(cost.phases) > 1 else [])
    lines = [f"{'':<14} {cost.seconds:.3f} s a step by the compiler's cost model, {100 * share:.1f}% MFU"]
    for table in tables:
        found = sorted(table.items(), key=lambda item: -item[1])
        lines.append(f"{'':<17}" + ", ".join(f"{name} {seconds:.3f}" for name, seconds in found if seconds >= 5e-4))
    return lines


def _platform(mesh: Mesh) -> str:
    return str(mesh.devices.flat[0].platform)


def target_model(config: Config) -> tuple[DecoderConfig, str]:
    """The decoder and the source of its shape. Pretrained weights need only config.json; other files are checked."""
    try:
        model = model_config(config.model)
    except DataError as error:
        if config.model.weights.count("/") != 1 or "hub" not in str(error):
            raise
        # The hub cannot be reached: config files also give the shape.
        own = dataclasses.replace(config.model, weights="")
        return decoder_config(own), f"config.model ({config.model.weights} is not here to compare)"
    if config.model.weights:
        check_weights(config.model, model)
    return model, config.model.weights or "config.model"


def main(config: Config) -> int:
    """Prints the report. Returns 1 if a step does not fit ``config.inspect.memory_gb``, else 0.

    Raises:
      DataError: if settings are incompatible.
    """
    devices = target_devices(config)
    mesh = make_mesh(config.train.mesh, devices)
    for part, prefix in ((config.train, "train."), (config.train.meta, "train.meta.")):
        check_divisible(mesh, part.batch_size // part.accumulation, f"{prefix}batch_size / {prefix}accumulation")
    model, source = target_model(config)
    params = placed_params(model, mesh)
    trainable, _ = split_trainable(model, params)
    count, size = total(params)
    axes = " x ".join(f"{name}={ways}" for name, ways in mesh.shape.items())
    place = config.inspect.topology or f"{_platform(mesh)}"
    print(f"model      {source}: {count:,} parameters, {total(trainable)[0]:,} trainable")
    print(f"mesh       {axes} on {devices[0].device_kind} x {len(devices)} ({place})")
    print(f"parameters {size / GB:.3f} GB per device\n")
    print("\n".join(parameter_lines(model, mesh)))
    batch = f"{config.train.batch_size} rows of {row_length(config.train.row_tokens)} tokens"
    print(f"\ncompiled for {place}: {batch}, attention {model.attention}, remat {model.remat}, {model.dtype}")
    print(f"{'GB per device':<14} {'arguments':>9} {'temps':>9} {'outputs':>9} {'peak':>9} {'TFLOP/device':>12}")
    fits = True
    for step in training_steps(config, model, mesh):
        lines, good = compiled_lines(step, config, model, mesh)
        print("\n".join(lines))
        sys.stdout.flush()
        fits &= good
    return 0 if fits else 1
