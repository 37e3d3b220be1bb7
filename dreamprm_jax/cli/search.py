"""``dreamprm search``: function-level search with the run's policy and a trained reward model, against best-of-N."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError
from dreamprm_jax.search.methods import ProgramScorer
from dreamprm_jax.search.stage import search_window
from dreamprm_jax.stages.runner import owned, require_trained

DESCRIPTION = """\
Lets the policy of a finished run continue the prefixes that its reward model likes, function by function (beam,
lookahead, diverse beam), and compares with best-of-N on the same budget of tokens, on the problems of the test window.
Writes RUN/search_ARM: results.json, table.txt, search.csv, choices.csv. Killed and run again, it goes on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--config", required=True, metavar="FILE", help="Python file with get_config(); the run's own")
    parser.add_argument("--workdir", metavar="DIR", help="folder of the run (default: runs/NAME of the config)")
    parser.add_argument("--arm", default="raw", help="which reward model of config.train.arms (default: raw)")


def main(arguments: list[str]) -> int:
    """Runs the command."""
    from dreamprm_jax.cli.main import load_config, settings_epilog, workdir  # the command line imports this module

    parser = argparse.ArgumentParser(
        prog="dreamprm search",
        description=DESCRIPTION,
        epilog=settings_epilog(Config(), {"seed", "policy", "search", "evaluate", "sandbox"}),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser)
    options, overrides = parser.parse_known_args(arguments)
    config = load_config(options.config, overrides)
    run(config, workdir(options.workdir or f"runs/{config.name}"), options.arm)
    return 0


def run(config: Config, root: Path, arm: str) -> None:
    """Searches with one arm of a run.

    Raises:
      DataError: on an arm that the run does not have, or a run whose train stage has not finished.
    """
    paths = Paths(root)
    if arm not in config.train.arms:
        raise DataError(f"--arm={arm}: the run's reward models are {', '.join(config.train.arms)}")
    require_trained(config, paths)
    with owned(root):
        search_window(config, paths, arm, lambda: _scorer(config, paths, arm))


def _scorer(config: Config, paths: Paths, arm: str) -> ProgramScorer:
    """The trained model, imported when it is needed: the host half never loads jax by itself."""
    return importlib.import_module("dreamprm_jax.scoring.live").load(config, paths, arm)
