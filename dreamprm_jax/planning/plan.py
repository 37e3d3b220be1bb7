"""The whole plan of a run: memory, time and price of its training, and the cost of its labels."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.planning.fleet import make_fleet
from dreamprm_jax.planning.labels import Assumptions, label_cost
from dreamprm_jax.planning.training import plan_training
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.chips import find_chip

ASSUMED = ("functions", "program_tokens", "prompt_tokens", "distinct", "judge_seconds", "decode_rate", "prompt_rate")
LIVECODEBENCH_TRAIN = 601  # of the 880 problems up to January 2025, those before 2024-08-01
LIVECODEBENCH_TEST = 131  # from 2025-02-01 on, in release_v6


def make_plan(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """The whole plan as plain values."""
    chip = find_chip(options.chip)
    fleet = make_fleet(chip, options.chips, options.slices)
    counts = _problem_counts(config, options.problems)
    assumed = Assumptions(*counts, **{name: getattr(options, name) for name in ASSUMED})
    labels = label_cost(config, assumed)
    price = chip.price if options.price is None else options.price
    training = plan_training(config, fleet, options.mesh, options.remat, options.topology, options.efficiency, price)
    return {
        **training,
        "labels": {**dataclasses.asdict(labels), "policy_price": labels.policy_hours * options.policy_price},
        "label_assumptions": {**dataclasses.asdict(assumed), "policy_price": options.policy_price},
    }


def _problem_counts(config: Config, problems: int | None) -> tuple[int, int, int]:
    """Problems of the train, meta and test window."""
    if problems is not None and problems < 1:
        raise DataError(f"--problems={problems}: must be at least 1")
    settings = config.problems
    meta = settings.meta_count
    if settings.source == "livecodebench":
        return problems or max(1, LIVECODEBENCH_TRAIN - meta), meta, LIVECODEBENCH_TEST
    return problems or settings.train_count, meta, settings.test_count
