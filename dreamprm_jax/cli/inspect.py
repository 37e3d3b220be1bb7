"""Compiles the training step ahead of time; nothing is trained."""

from __future__ import annotations

import argparse

from dreamprm_jax.cli.options import add_config, config_of
from dreamprm_jax.stages.validation import validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config(parser, workdir=False)


def main(args: argparse.Namespace) -> int:
    """Compiles and prints."""
    from dreamprm_jax.planning.inspect import main as inspect_config

    config = config_of(args)
    validate(config)
    return inspect_config(config)
