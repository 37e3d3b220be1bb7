"""Adapters are merged and the tokenizer is included, so that transformers and servers can load the folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamprm_jax.cli.options import workdir_of
from dreamprm_jax.config import load_config
from dreamprm_jax.runs.trained import trained_arm
from dreamprm_jax.schema import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--prm", type=Path, metavar="RUN/ARM", help="a trained model of a run")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the folder to write; new or empty")
    parser.add_argument("--config", metavar="FILE", help="instead of --prm: the run's config file")
    parser.add_argument("--workdir", metavar="DIR", help="instead of --prm: the run's folder")
    parser.add_argument("--arm", default="corrected", help="with --workdir or --config: the model")


def main(args: argparse.Namespace) -> int:
    """Writes the folder."""
    from dreamprm_jax.training.export import export

    path = args.prm
    if path is None and args.workdir:
        path = Path(args.workdir) / args.arm
    elif path is None and args.config:
        path = workdir_of(args, load_config(args.config, [])) / args.arm
    elif path is None:
        raise DataError("no model is given; use --prm=RUN/ARM")
    print(f"wrote {export(trained_arm(path), args.output).resolve()}")
    return 0
