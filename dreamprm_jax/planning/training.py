"""The plan of the train stage: mesh, memory, time of a step, hours and price of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from dreamprm_jax.config import Config
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.planning.duration import run_steps
from dreamprm_jax.planning.fleet import Fleet
from dreamprm_jax.planning.inspect import GB, target_devices, target_model
from dreamprm_jax.planning.layouts import (
    MOST_SHARDS,
    Batches,
    Candidate,
    kept_elements,
    objection,
    parse_layout,
    ranked,
)
from dreamprm_jax.planning.memory import USABLE, Memory, step_memory, step_works
from dreamprm_jax.planning.roofline import Work, step_time
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.arms import arm_plans
from dreamprm_jax.training.chips import CHIPS

TRIES = 3  # candidates that are compiled at most
# The values of ``model.remat`` that ``auto`` chooses among, each with the value that is traced instead because it has
# the same matrix products. (``attention`` keeps the results of fused attention, which is not counted among them.)
# ``none`` is not among the choices: it recomputes no fewer products than ``dots``.
POLICIES = {"dots": "dots", "offload": "dots", "attention": "full", "full": "full"}


def plan_training(
    config: Config, fleet: Fleet, mesh: str, remat: str, topology: str, efficiency: float, price: float
) -> dict[str, Any]:
    """The plan of training, as plain values.

    Args:
      config: settings of the run; the mesh in them is not used.
      fleet: the chips.
      mesh: ``auto`` or ``DxFxT``.
      remat: ``auto``, or a value of ``model.remat``.
      topology: a topology of libtpu; empty for the CPU compiler.
      efficiency: share of the peak that matrix products reach.
      price: price of a chip-hour.

    Raises:
      DataError: if no mesh is possible, or jax already runs with other devices.
    """
    wanted = parse_layout(mesh)
    inspect = dataclasses.replace(
        config.inspect, topology=topology, devices=0 if topology else min(MOST_SHARDS, fleet.count)
    )
    devices = target_devices(dataclasses.replace(config, inspect=inspect))
    model, source = target_model(config)
    batches = Batches.of(config.train, any(plan.learned for plan in arm_plans(config.train)))
    if wanted is not None and (why := objection(wanted, fleet, model, batches)):
        raise DataError(f"--mesh={mesh}: {why}")
    policies: Any = POLICIES if remat == "auto" else (remat,)
    models = [dataclasses.replace(model, remat=policy) for policy in policies]
    works_of = _works(config, models)
    usable = USABLE * fleet.chip.memory_gb * GB
    choices = [(each, works_of[each.remat][-1]) for each in models]
    candidates = ranked(fleet, choices, batches, usable, efficiency, wanted)
    chosen, memory = _first_that_fits(config, candidates, fleet, devices, whole=bool(topology))
    layout, model, works = chosen.layout, chosen.model, works_of[chosen.model.remat]
    steps = run_steps(config.train)
    kinds = [("plain", steps.plain), ("bi-level", steps.bilevel)]
    times, low, high = {}, 0.0, 0.0
    for (kind, count), work in zip(kinds, works, strict=False):
        time = step_time(work, layout, fleet, efficiency)
        seconds = [time.overlapped, time.serial]
        if memory.seconds is not None:  # of the most expensive step; that of the others is scaled by FLOPs
            seconds = [memory.seconds * work.flops / works[-1].flops] * 2
        low, high = low + count * seconds[0] / 3600, high + count * seconds[1] / 3600
        times[kind] = {
            "steps": count,
            "flops": work.flops,
            "tokens": work.stream[0] // model.hidden_size,
            "seconds": seconds,
            "parts": dataclasses.asdict(time),
            "share_of_peak": [work.flops / (fleet.count * fleet.chip.peak_flops * s) for s in reversed(seconds)],
        }
    return {
        "model": {"source": source, "parameters": works[0].parameters, "trainable": works[0].trainable},
        "chips": {
            **dataclasses.asdict(fleet.chip),
            "is_gpu": fleet.chip.is_gpu,
            "count": fleet.count,
            "domains": fleet.domains,
        },
        "mesh": dataclasses.asdict(layout),
        "remat": model.remat,
        "batch_rows": dict(batches.rows),
        "memory": {
            **dataclasses.asdict(memory),
            "least": memory.least,
            "most": memory.most,
            "fits": memory.fits,
            "compiler": topology or "cpu",
        },
        "advice": [] if memory.fits == "yes" else advice(config, model, works[-1], memory, fleet),
        "steps": times,
        "efficiency": efficiency,
        "hours": [low, high],
        "chip_price": price,
        "price": [low * fleet.count * price, high * fleet.count * price],
    }


def _works(config: Config, models: Iterable[DecoderConfig]) -> dict[str, list[Work]]:
    """The work of the plain and the bi-level step, by rematerialization policy."""
    traced: dict[str, list[Work]] = {}
    works_of: dict[str, list[Work]] = {}
    for model in models:
        like: Any = POLICIES.get(model.remat, model.remat)
        if like not in traced:
            traced[like] = step_works(config, dataclasses.replace(model, remat=like))
        to_host = kept_elements(model)[1]
        works_of[model.remat] = [
            dataclasses.replace(
                work,
                remat=model.remat,
                offloaded=to_host * sum(work.stream[: 1 + work.bilevel]) // model.hidden_size,
            )
            for work in traced[like]
        ]
    return works_of


def _first_that_fits(
    config: Config, candidates: list[Candidate], fleet: Fleet, devices: list[jax.Device], whole: bool
) -> tuple[Candidate, Memory]:
    """The first of up to ``TRIES`` ever smaller candidates that fits; else one that may fit; else the smallest."""
    found: list[tuple[Candidate, Memory]] = []
    while candidates and len(found) < TRIES:
        candidate = candidates[0]
        some = devices if whole else devices[: candidate.layout.fsdp * candidate.layout.tensor]
        memory = step_memory(config, candidate.model, candidate.layout, fleet.chip, some)
        if memory.fits == "yes":
            return candidate, memory
        found.append((candidate, memory))
        candidates = [other for other in candidates if other.size < candidate.size]
    return min(found, key=lambda pair: (pair[1].fits == "no", pair[1].most))


def advice(config: Config, model: DecoderConfig, work: Work, memory: Memory, fleet: Fleet) -> list[str]:
    """Changes that would reduce the memory and are not in effect yet."""
    found = []
    train, meta = config.train, config.train.meta
    if memory.state > memory.usable / 2:
        found.append(f"more chips: parameters and optimizer alone take {memory.state:.1f} GB of each")
    if model.remat != "full":
        found.append("--remat=full: keep one tensor a layer, compute the others again")
    if meta.reuse_forward and work.bilevel:
        found.append("--config.train.meta.reuse_forward=False: the tangent pass computes its own forward pass")
    if model.attention == "einsum":
        found.append("--config.model.attention=chunked: attention scores of a few query rows at a time")
    if train.batch_size // train.accumulation > 1 or (work.bilevel and meta.batch_size // meta.accumulation > 1):
        found.append(
            f"--config.train.accumulation={2 * train.accumulation} "
            f"--config.train.meta.accumulation={2 * meta.accumulation}: smaller micro-batches (over fewer chips)"
        )
    if model.lora is None:
        found.append("--config.model.lora.rank=8 --config.model.param_dtype=bfloat16: adapters on a frozen model")
        if model.param_dtype == "float32":
            found.append(
                "--config.model.param_dtype=bfloat16 (with train.master_weights=True the copies are the optimizer's)"
            )
    found.append(f"--config.train.row_tokens below {train.row_tokens}: shorter rows")
    if bigger := [chip.name for chip in CHIPS.values() if chip.memory_gb > fleet.chip.memory_gb]:
        found.append(f"a chip with more memory than {fleet.chip.memory_gb:g} GB ({', '.join(bigger)})")
    return found
