"""Works while the run is in progress, on any machine that can read the folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamprm_jax.runs.status import format_status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")


def main(args: argparse.Namespace) -> int:
    """Prints the status of a run."""
    print(format_status(Path(args.workdir)))
    return 0
