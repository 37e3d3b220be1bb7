"""The policy of a finished run continues the prefixes that the run's reward model prefers, one function at a time
(beam, lookahead, diverse beam). The result is compared with best-of-N on the same token budget, on the problems of the
test window. With --prm, another reward model chooses; it may be a public one. Writes RUN/search_ARM: results.json,
table.txt, search.csv, choices.csv. After a kill, the same command resumes.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from dreamprm_jax.cli.options import add_config, config_of, workdir_of
from dreamprm_jax.cli.score import add_prm_arguments, prm_options
from dreamprm_jax.config import SettingInfo
from dreamprm_jax.config.renamed import current_name
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.locks import run_lock
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import require_done
from dreamprm_jax.schema import DataError, canonical_json, content_hash
from dreamprm_jax.search.algorithms import ProgramScorer
from dreamprm_jax.search.comparison import search_window
from dreamprm_jax.stages.validation import validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config(parser)
    parser.add_argument("--arm", default="raw", help="a reward model of config.train.arms")
    add_prm_arguments(parser, required=False)


def main(args: argparse.Namespace) -> int:
    """Searches with an arm of a run, or with the model of --prm. Returns the exit status."""
    config = config_of(args)
    root = workdir_of(args, config)
    validate(config)
    args.arm = current_name(args.arm, "--arm")
    if args.prm is None and args.arm not in config.train.arms:
        raise DataError(f"--arm={args.arm}: the run's reward models are {', '.join(config.train.arms)}")
    require_done(config, root, "train")
    name = args.arm if args.prm is None else _foreign_name(args, root)

    def make_scorer() -> ProgramScorer:  # imported here: the host half never loads jax
        live = importlib.import_module("dreamprm_jax.scoring.live")
        if args.prm is None:
            return live.load(config, Paths(root), args.arm)
        args.granularity = args.granularity or config.label.granularity
        return live.load_foreign(config, args.prm, prm_options(args))

    with run_lock(root):
        search_window(config, Paths(root), name, make_scorer)
    return 0


def _foreign_name(args: argparse.Namespace, root: Path) -> str:
    """Name of the results folder for --prm: the model's name and a digest of its files and input format."""
    files = InputDigests(root).digest_or_value("search.prm", str(args.prm), SettingInfo(reads="path"))
    options = [getattr(args, name) for name in ("form", "separator", "labels", "max_length", "overlong", "dtype")]
    return f"{args.prm.name}-{content_hash(files, canonical_json(options), digits=8)}"
