"""Chooses a mesh, compiles the largest training step on abstract arrays, and prints memory per device, FLOPs and time
per step, hours and price of all arms, and the cost of the labels in tokens, judged programs and hours. FLOPs are
counted in the traced step; memory is the state's exact size and the CPU compiler's temporaries (--topology asks
libtpu instead); times are a roofline from data sheets, under assumptions that are printed with them. Nothing is
written, and no chip is needed. The exit status is 1 if the run does not fit.

  dreamprm plan --config=configs/llama3_70b.py --chip=v5p --chips=256
  dreamprm plan --config=configs/qwen2_5_coder_3b.py --chip=h100 --chips=1 --json
"""

from __future__ import annotations

import argparse
import json

from dreamprm_jax.cli.options import add_config, config_of
from dreamprm_jax.planning.fleet import make_fleet
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages.validation import validate
from dreamprm_jax.training.chips import CHIPS, find_chip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    add_config(parser, workdir=False)
    add = parser.add_argument
    add("--chip", required=True, metavar="KIND", help=f"one of {', '.join(CHIPS)}")
    add("--chips", required=True, type=int, metavar="N", help="how many of them train")
    add("--slices", type=int, default=0, metavar="S", help="TPU slices (default: as few as hold the chips)")
    add("--mesh", default="auto", metavar="DxFxT", help="data x fsdp x tensor (default: the fastest that should fit)")
    add(
        "--remat",
        default="auto",
        choices=("auto", "none", "dots", "offload", "attention", "full"),
        help="config.model.remat (default: dots where it should fit, else full)",
    )
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


def main(args: argparse.Namespace) -> int:
    """Plans and prints.

    Returns:
      0; 1 where the run does not fit the chips.

    Raises:
      DataError: on unknown chips, and settings that do not go together.
    """
    make_fleet(find_chip(args.chip), args.chips, args.slices)  # report bad numbers before jax is loaded
    if not 0 < args.efficiency <= 1:
        raise DataError(f"--efficiency={args.efficiency:g}: must be above 0 and at most 1")
    from dreamprm_jax.planning.plan import make_plan
    from dreamprm_jax.planning.text import lines

    config = config_of(args)
    validate(config)
    plan = make_plan(config, args)
    print(json.dumps(plan, indent=1) if args.json else "\n".join(lines(plan)))
    return 0 if plan["memory"]["fits"] != "no" else 1
