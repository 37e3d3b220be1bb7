"""Checks every setting, every file that settings name and every package that they need; changes nothing."""

from __future__ import annotations

import argparse

from dreamprm_jax.cli.options import add_config, config_of
from dreamprm_jax.stages.validation import check_environment, validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config(parser, workdir=False)


def main(args: argparse.Namespace) -> int:
    """Checks the settings. Raises DataError where one is wrong."""
    config = config_of(args)
    validate(config)
    check_environment(config)
    print(f"{args.config}: valid")
    return 0
