"""Memory of one device: the exact size of the state and the inputs, and the temporaries according to a compiler.

The bytes of the state follow from shapes and shardings. For temporaries, the step is compiled on abstract arrays for
the devices of one replica; the ``data`` axis only repeats replicas. The CPU compiler is used, for devices that need not
exist, unless a TPU topology is given for libtpu. The CPU compiler widens bfloat16 and keeps copies that other compilers
do not. So the step is compiled entirely in float32, and its temporaries are an upper bound: libtpu's temporaries for
the same bfloat16 steps were between ``LEAST`` times the bound and the bound (docs/planning.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax

from dreamprm_jax.config import Config, MeshConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.planning.inspect import GB, Step, compile_step, predicted_cost, step_flops, total, training_steps
from dreamprm_jax.planning.roofline import Layout, Work
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.chips import Chip
from dreamprm_jax.training.feed import row_length
from dreamprm_jax.training.mesh import abstract_mesh, make_mesh

USABLE = 0.92  # share of a chip's memory; the rest is for the runtime and fragmentation
LEAST = 0.39  # the smallest observed ratio of libtpu's temporaries to the CPU compiler's


@dataclass(frozen=True)
class Memory:
    """GB (10^9 bytes) of one device."""

    parameters: float
    optimizer: float
    label_table: float  # with its optimizer's state
    batch: float
    gradients: float  # part of the temporaries: one float32 tree of trained parameters; bi-level steps hold two more
    temporaries: float
    bound: bool  # whether temporaries are the bound of the CPU compiler, for a bfloat16 model
    usable: float
    seconds: float | None = None  # of the step, by the compiler's cost model (TPU v5p)

    @property
    def state(self) -> float:
        """The inputs of the step."""
        return self.parameters + self.optimizer + self.label_table + self.batch

    @property
    def most(self) -> float:
        """The total with all temporaries."""
        return self.state + self.temporaries

    @property
    def least(self) -> float:
        """The total with the smallest observed share of the bound."""
        return self.state + self.temporaries * (LEAST if self.bound else 1.0)

    @property
    def fits(self) -> Literal["yes", "maybe", "no"]:
        """Whether the step fits a chip."""
        if self.most <= self.usable:
            return "yes"
        return "maybe" if self.least <= self.usable else "no"


def _on(config: Config, layout: Layout, **changes: Any) -> Config:
    train = dataclasses.replace(config.train, mesh=MeshConfig(layout.data, layout.fsdp, layout.tensor), **changes)
    return dataclasses.replace(config, train=train)


def abstract_steps(config: Config, model: DecoderConfig, layout: Layout) -> list[Step]:
    """The plain step and, if labels are learned, the bi-level step, on a mesh without devices."""
    config = _on(config, layout)
    return training_steps(config, model, abstract_mesh(config.train.mesh, layout.data * layout.fsdp * layout.tensor))


def step_works(config: Config, model: DecoderConfig) -> list[Work]:
    """The work of the plain step and, if labels are learned, of the bi-level step (K = 1)."""
    one = Layout(1, 1, 1)
    mesh, settings = abstract_mesh(MeshConfig(1, 1, 1), 1), config.train
    rows = (settings.batch_size, settings.meta.batch_size)
    works = []
    for step in abstract_steps(config, model, one):
        state, frozen = step.arguments[:2]
        trainable = total(state.params)[0]
        works.append(
            Work(
                flops=step_flops(step, model, mesh),
                bilevel=len(step.arguments) > 3,
                parameters=trainable + total(frozen)[0],
                trainable=trainable,
                width=2 if model.dtype == "bfloat16" else 4,
                layers=model.num_layers,
                stream=(
                    rows[0] * row_length(settings.row_tokens) * model.hidden_size,
                    rows[1] * row_length(settings.row_tokens) * model.hidden_size,
                ),
                micro=(settings.accumulation, settings.meta.accumulation),
                remat=model.remat,
            )
        )
    return works


def step_memory(config: Config, model: DecoderConfig, layout: Layout, chip: Chip, devices: list[jax.Device]) -> Memory:
    """Memory of the most expensive step of a run, and its time if the compiler has a cost model.

    Args:
      config: settings of the run.
      model: decoder of the run.
      layout: the mesh.
      chip: the chip whose memory it should fit.
      devices: devices to compile for, of the CPU or of a topology: those of one replica (fsdp x tensor), or of several.

    Raises:
      DataError: if the devices are not a whole number of replicas.
    """
    state, frozen, *inputs = abstract_steps(config, model, layout)[-1].arguments
    shards = layout.fsdp * layout.tensor
    if len(devices) % shards or layout.data % (len(devices) // shards):
        raise DataError(f"{len(devices)} devices of the topology are no whole number of replicas of {shards}: {layout}")
    data = len(devices) // shards
    cpu = devices[0].platform == "cpu"
    meta = config.train.meta
    small = _on(
        config,
        Layout(data, layout.fsdp, layout.tensor),
        batch_size=config.train.batch_size * data // layout.data,
        meta=dataclasses.replace(meta, batch_size=meta.batch_size * data // layout.data),
        master_weights=config.train.master_weights and not cpu,
    )
    narrow = "bfloat16" in (model.dtype, model.param_dtype)
    wide = dataclasses.replace(model, dtype="float32", param_dtype="float32") if cpu else model
    mesh = make_mesh(small.train.mesh, devices)
    cost = None
    try:
        compiled = compile_step(training_steps(small, wide, mesh)[-1], wide, mesh)
        stats, cost = compiled.memory_analysis(), predicted_cost(compiled.as_text(), small, wide, mesh)
        temporaries = stats.temp_size_in_bytes + max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    except MemoryError:  # the TPU compiler knows the memory of its chip
        temporaries = float("inf")
    return Memory(
        parameters=(total(state.params)[1] + total(frozen)[1]) / GB,
        optimizer=total(state.opt_state)[1] / GB,
        label_table=total((state.phi, state.meta_opt_state))[1] / GB,
        batch=total(inputs)[1] / GB,
        gradients=4 * total(state.params)[0] / shards / GB,
        temporaries=temporaries / GB,
        bound=cpu and narrow,
        usable=USABLE * chip.memory_gb,
        seconds=None if cost is None else cost.seconds,
    )
