"""Run again, the command reuses finished work and resumes interrupted work. Output made with other settings is moved to
old/ in the run's folder, never deleted.
"""

from __future__ import annotations

import argparse
import dataclasses
from itertools import islice
from pathlib import Path

from dreamprm_jax.cli.options import add_config, config_of, workdir_of
from dreamprm_jax.config import Config
from dreamprm_jax.labeling.step_files import LabeledSteps, read_steps
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import stage_folder
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.schema import DataError

# Option -> field of config.train.step_data, metavar, help.
STEP_OPTIONS = {
    "steps": ("path", "FILE", "train on this file, folder or hub id: TRL, PRM800K, Math-Shepherd or ProcessBench rows"),
    "eval-steps": ("evaluation", "FILE", "held-out solutions to measure step AUROC on"),
    "meta-steps": ("meta", "FILE", "trusted solutions for the learned labels (default: a tenth of the problems)"),
    "separator": ("separator", "TEXT", "text after every step, where the score is read (default: \\n; '' for none)"),
    "split": ("split", "NAME", "split of the data sets (default: train, or the only one)"),
    "eval-split": ("evaluation_split", "NAME", "split of --eval-steps (default: that of --split)"),
    "subset": ("subset", "NAME", "configuration of a data set of the hub"),
    "revision": ("revision", "NAME", "branch, tag or commit of the data sets of the hub"),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    command = parser.get_default("command")
    add_config(parser, required=command != "train")
    if command == "train":
        given = parser.add_argument_group(
            "step labels of your own", "these need no policy, no tests and no --config (docs/step_labels.md)"
        )
        for option, (_, metavar, text) in STEP_OPTIONS.items():
            given.add_argument(f"--{option}", metavar=metavar, help=text)
    if command == "evaluate":
        given = parser.add_argument_group("judge a file of programs instead of a run")
        given.add_argument("--problems", metavar="FILE", help="problems, in any format of docs/problems.md")
        given.add_argument("--candidates", metavar="FILE", help="programs, in any format of docs/your_own_data.md")
    if command in ("train", "evaluate"):
        given.add_argument("--strict", action="store_true", help="treat a row that cannot be used as an error")


def main(args: argparse.Namespace) -> int:
    """Runs one stage, or all stages. Returns the exit status."""
    from dreamprm_jax.stages.runner import run_stage
    from dreamprm_jax.stages.validation import check_environment, validate

    if args.command == "evaluate":
        if bool(args.problems) != bool(args.candidates):
            raise DataError("--problems and --candidates: give both or neither")
        if args.strict and not args.problems:
            raise DataError("--strict: needs --problems and --candidates")
        args.overrides += ["--config.problems.strict=True"] * args.strict
    config = _with_steps(args) if args.command == "train" else config_of(args)
    if config.train.step_data.path and args.command != "train":
        raise DataError("config.train.step_data.path: only `dreamprm train` uses it; leave it out here")
    root = workdir_of(args, config)
    if args.command == "evaluate" and args.problems:
        return _evaluate_files(config, args, root)
    if args.command != "run":
        run_stage(config, root, args.command)
        if args.command == "evaluate" and _is_main(config):
            print(f"\n{Paths(root).table().read_text(encoding='utf-8')}", end="", flush=True)
        if config.train.step_data.path:
            paths = Paths(root)
            models = ", ".join(str(root / arm) for arm in config.train.arms)
            print(f"models: {models}\nskipped rows: {paths.skipped_steps()}")
            print(
                f"next: dreamprm score --prm={root / config.train.arms[-1]} --candidates=FILE --output=scores.parquet"
            )
        return 0
    validate(config)
    check_environment(config, [name for name in STAGES if not stage_folder(config, root, name).is_done()])
    for name in STAGES:
        run_stage(config, root, name)
    if not _is_main(config):
        return 0
    paths = Paths(root)
    print(f"\n{_closing_text(root, paths)}")
    best = f"{root}/{config.train.arms[-1]}"
    print(f"\nall tables: {paths.table().resolve()}\nreport: {paths.report().resolve()}")
    print(
        f"next: dreamprm serve --prm={best}, or dreamprm score --prm={best} --candidates=FILE --output=scores.parquet"
    )
    return 0


def _is_main(config: Config) -> bool:
    """Whether this is the first process of the run."""
    if config.distributed.mode == "off":
        return True
    from dreamprm_jax.training.distributed import is_main

    return is_main()


def _closing_text(root: Path, paths: Paths) -> str:
    """The three tables to read first: best of N, differences, and the time of each stage."""
    from dreamprm_jax.runs.progress import duration
    from dreamprm_jax.runs.status import run_status
    from dreamprm_jax.tables import text_table

    tables = paths.table().read_text(encoding="utf-8").split("\n\n\n")[:2]
    done = [(stage.name, stage.seconds) for stage in run_status(root) if stage.seconds is not None]
    rows = [[name, duration(seconds)] for name, seconds in done]
    times = text_table(["stage", "time"], [*rows, ["all", duration(sum(seconds for _, seconds in done))]])
    return "\n\n\n".join([*tables, times])


def _with_steps(args: argparse.Namespace) -> Config:
    """Applies the options for step labels to the settings, and selects the arms that can be trained on such a file."""
    for option, (field, _, _) in STEP_OPTIONS.items():
        if (value := getattr(args, option.replace("-", "_"))) is not None:
            text = value.replace("\\n", "\n").replace("\\t", "\t") if field == "separator" else value
            args.overrides.append(f"--config.train.step_data.{field}={text}")
    if args.strict:
        args.overrides.append("--config.train.step_data.strict=True")
    if not args.config and not args.steps:
        raise DataError("give --config=FILE, or --steps=FILE to train on step labels of your own")
    config = config_of(args)
    data = config.train.step_data
    if not data.path or any(item.startswith("--config.train.arms=") for item in args.overrides):
        return config
    learns = bool(data.meta) or any(
        isinstance(one, LabeledSteps) and one.is_meta(data.meta_share)
        for one in islice(read_steps(data.path, data), 1000)
    )
    arms = ("raw", "label_table") if learns else ("raw",)
    name = config.name if args.config else Path(data.path).name.split(".")[0]
    return dataclasses.replace(config, name=name, train=dataclasses.replace(config.train, arms=arms))


def _evaluate_files(config: Config, args: argparse.Namespace, root: Path) -> int:
    from dreamprm_jax.evaluation.candidate_files import evaluate_files
    from dreamprm_jax.runs.locks import run_lock
    from dreamprm_jax.stages.validation import validate

    validate(config)
    with run_lock(root):
        evaluate_files(config, Path(args.problems), Path(args.candidates), root)
    return 0
