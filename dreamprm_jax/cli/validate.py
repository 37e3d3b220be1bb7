"""Checks every setting, every file that the settings refer to and every package that they need, and names the changed
settings that have no effect beside the others. Changes nothing."""

from __future__ import annotations

import argparse

from dreamprm_jax.cli.options import add_config, config_of
from dreamprm_jax.stages.ignored_settings import ignored_settings
from dreamprm_jax.stages.validation import check_environment, validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config(parser, workdir=False)


def main(args: argparse.Namespace) -> int:
    """Checks the settings. Returns the exit status."""
    config = config_of(args)
    validate(config)
    check_environment(config)
    for note in ignored_settings(config):
        print(f"note: {note}")
    print(f"{args.config}: valid")
    return 0
