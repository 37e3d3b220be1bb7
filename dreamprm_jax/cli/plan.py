"""What a run would take on chips that need not be here: memory, time, price, and the cost of its labels.

Chooses a mesh, compiles the dearest training step on abstract arrays, and prints memory of a device, FLOPs and time of
a step, hours and price of all arms of the run, and what its labels cost in tokens, judged programs and hours. FLOPs
are counted in the traced step; memory is the state's exact size and the CPU compiler's temporaries (--topology asks
libtpu instead); times are a roofline from data sheets, under the assumptions that are printed along. Nothing is
written, and no chip is needed. Ends with status 1 where the run does not fit.

  dreamprm plan --config=configs/llama3_70b.py --chip=v5p --chips=256
  dreamprm plan --config=configs/qwen2_5_coder_3b.py --chip=h100 --chips=1 --json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from dreamprm_jax.planning.chips import CHIPS, find_chip, make_fleet
from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    from dreamprm_jax.config import Config

_ASSUMED = ("functions", "program_tokens", "prompt_tokens", "distinct", "judge_seconds", "decode_rate", "prompt_rate")
LIVECODEBENCH_TRAIN = 601  # of the 880 problems up to January 2025, those before 2024-08-01
LIVECODEBENCH_TEST = 131  # from 2025-02-01 on, in release_v6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    add = parser.add_argument
    add(
        "--config", required=True, metavar="FILE", help="Python file with get_config(); --config.FIELD=VALUE changes it"
    )
    add("--chip", required=True, metavar="KIND", help=f"one of {', '.join(CHIPS)}")
    add("--chips", required=True, type=int, metavar="N", help="how many of them train")
    add("--slices", type=int, default=0, metavar="S", help="TPU slices (default: as few as hold the chips)")
    add("--mesh", default="auto", metavar="DxFxT", help="data x fsdp x tensor (default: the fastest that should fit)")
    add("--topology", default="", metavar="NAME", help="compile by libtpu for this topology, as v5p:4x4x4 (minutes)")
    add("--efficiency", type=float, default=0.5, help="share of the peak that matrix products reach (default: 0.5)")
    add("--price", type=float, metavar="DOLLARS", help="of a chip-hour (default: about the list price of 2025)")
    add("--json", action="store_true", help="print JSON instead of the table")
    labels = parser.add_argument_group("assumptions about the labels")
    add = labels.add_argument
    add("--problems", type=int, metavar="N", help="training problems (default: the config's)")
    add("--functions", type=float, default=4.0, help="steps of a program (4)")
    add("--program-tokens", type=float, default=450.0, help="(450)")
    add("--prompt-tokens", type=float, default=800.0, help="instructions and statement (800)")
    add("--distinct", type=float, default=1.0, help="share of the completions that differ and are run (1: all)")
    add("--judge-seconds", type=float, default=0.5, help="CPU time of a program with all its tests (0.5)")
    add("--decode-rate", type=float, default=4000.0, help="tokens/s that a GPU of the policy generates (4000)")
    add("--prompt-rate", type=float, default=40000.0, help="prompt tokens/s of such a GPU (40000)")
    add("--policy-price", type=float, default=3.0, metavar="DOLLARS", help="of an hour of such a GPU (3)")


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
      0; 1 where the run does not fit the chips.

    Raises:
      DataError: on unknown chips, and settings that do not go together.
    """
    parser = argparse.ArgumentParser(
        prog="dreamprm plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser)
    options, overrides = parser.parse_known_args(arguments)
    chip = find_chip(options.chip)
    make_fleet(chip, options.chips, options.slices)  # bad numbers are told before jax is loaded
    if not 0 < options.efficiency <= 1:
        raise DataError(f"--efficiency={options.efficiency:g}: must be above 0 and at most 1")

    from dreamprm_jax.cli.main import load_config  # the command line imports this module
    from dreamprm_jax.planning.table import lines

    config = load_config(options.config, overrides)
    plan = make_plan(config, options)
    print(json.dumps(plan, indent=1) if options.json else "\n".join(lines(plan)))
    return 0 if plan["memory"]["fits"] != "no" else 1


def make_plan(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """The whole plan as plain values."""
    from dreamprm_jax.planning.labels import Assumptions, label_cost
    from dreamprm_jax.planning.training import plan_training

    chip = find_chip(options.chip)
    fleet = make_fleet(chip, options.chips, options.slices)
    counts = _problem_counts(config, options.problems)
    assumed = Assumptions(*counts, **{name: getattr(options, name) for name in _ASSUMED})
    labels = label_cost(config, assumed)
    price = chip.price if options.price is None else options.price
    training = plan_training(config, fleet, options.mesh, options.topology, options.efficiency, price)
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
