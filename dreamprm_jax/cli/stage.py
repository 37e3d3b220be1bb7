"""Run again, the same command reuses what is finished and continues what was stopped. Work for other settings is moved
to old/ in the run's folder, never deleted.

`dreamprm evaluate --problems=FILE --candidates=FILE` judges programs that were made elsewhere instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamprm_jax.cli.options import add_config, config_of, workdir_of
from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import stage_folder
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.schema import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a stage."""
    add_config(parser)
    if parser.get_default("command") == "evaluate":
        parser.add_argument(
            "--problems", metavar="FILE", help="problems in the official LiveCodeBench row format (JSONL)"
        )
        parser.add_argument("--candidates", metavar="FILE", help="programs: eval_all JSON, JSONL or our Parquet")


def main(args: argparse.Namespace) -> int:
    """Runs one stage, or all of them."""
    from dreamprm_jax.stages.runner import run_stage
    from dreamprm_jax.stages.validation import check_environment, validate

    config = config_of(args)
    root = workdir_of(args, config)
    if args.command == "evaluate" and (args.problems or args.candidates):
        return _evaluate_files(config, args, root)
    if args.command != "run":
        run_stage(config, root, args.command)
        return 0
    validate(config)
    check_environment(config, [name for name in STAGES if not stage_folder(config, root, name).is_done()])
    for name in STAGES:
        run_stage(config, root, name)
    if config.distributed.mode != "off":
        from dreamprm_jax.training.distributed import is_main

        if not is_main():
            return 0
    paths = Paths(root)
    headline = paths.table().read_text(encoding="utf-8").split("\n\n\n")[0]
    print(f"\n{headline}\n\nall tables: {paths.table().resolve()}\nreport: {paths.report().resolve()}")
    return 0


def _evaluate_files(config: Config, args: argparse.Namespace, root: Path) -> int:
    from dreamprm_jax.evaluation.files import evaluate_files
    from dreamprm_jax.runs.locks import run_lock
    from dreamprm_jax.stages.validation import validate

    if not (args.problems and args.candidates):
        raise DataError("--problems and --candidates go together")
    validate(config)
    with run_lock(root):
        evaluate_files(config, Path(args.problems), Path(args.candidates), root)
    return 0
