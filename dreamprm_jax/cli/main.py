"""The command line: ``dreamprm STAGE --config=configs/x.py [--config.field=value] --workdir=DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dreamprm_jax.runs.stage_graph import STAGES

USAGE = """\
usage: dreamprm STAGE --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIR]

Process reward models for code, trained by exact bi-level label correction in JAX.

stages of the main job, in order
{stages}
  run        all of these; finished stages are reused, a killed one resumes

other commands
  evaluate   with --problems=FILE --candidates=FILE: judge programs made elsewhere (LiveCodeBench eval_all, JSONL)
  judge      run candidate programs in the sandbox and print their verdicts
  score      with --candidates=FILE --prm=FOLDER --output=FILE: scores programs made elsewhere with any reward model
  serve      with --prm=FOLDER: a reward model behind HTTP (/pooling, /score_steps)
  stepbench  make and score a benchmark: which function of a program is the first wrong one?
  status     with --workdir=DIR: how far a run is: units, rate, time left, errors
  search     beam search over functions with a trained reward model, against best-of-N on the same budget
  plan       with --chip=KIND --chips=N: memory, time, price and label cost of a run on chips that need not be here
  inspect    parameters, shardings, compiled memory and FLOPs of a training step, for devices that need not exist
  export     with --arm=ARM --output=DIR: a trained reward model as a Hugging Face folder

`dreamprm STAGE --help` lists the settings that the stage reads. Example:
  dreamprm run --config=configs/embedded.py --workdir=runs/embedded --config.train.steps=50
"""


OTHER_COMMANDS = ("judge", "serve", "stepbench", "status", "search", "plan", "inspect", "export")


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, 1 (work failed), 2 (bad input or usage)."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from dreamprm_jax import __version__

        print(f"dreamprm {__version__}")
        return 0
    from dreamprm_jax.schema import DataError

    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _dispatch(arguments[0], arguments[1:])
    except DataError as error:
        print(f"dreamprm {arguments[0]}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has gone, as in `dreamprm status ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        from dreamprm_jax.storage import disk_full_error

        full = disk_full_error(Path(error.filename or "the disk"), error)
        if full is None:
            raise
        print(f"dreamprm {arguments[0]}: error: {full}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on where it stopped", file=sys.stderr)
        return 130


def _usage() -> str:
    return USAGE.format(stages="\n".join(f"  {s.name:<10} {s.summary}" for s in STAGES.values()))


def _terminate(signum: int, frame: Any) -> NoReturn:
    """SIGTERM (preemption): unwind, so that children end and files are flushed; the next start resumes."""
    print("\nterminated; run the same command again to go on where it stopped", file=sys.stderr)
    raise SystemExit(143)


def _dispatch(command: str, arguments: list[str]) -> int:
    from dreamprm_jax.runs.paths import Paths
    from dreamprm_jax.stages.runner import run_stage

    if command == "status":
        from dreamprm_jax.runs import status

        return status.main(arguments)
    if command == "judge":
        from dreamprm_jax.cli import judge as judge_cli

        parser = argparse.ArgumentParser(prog="dreamprm judge", description=judge_cli.__doc__)
        judge_cli.add_arguments(parser)
        return judge_cli.main(parser.parse_args(arguments))
    if command == "stepbench":
        from dreamprm_jax.cli import stepbench as stepbench_cli

        parser = argparse.ArgumentParser(prog="dreamprm stepbench", description=stepbench_cli.__doc__)
        stepbench_cli.add_arguments(parser)
        return stepbench_cli.main(parser.parse_args(arguments))
    if command == "serve" or (command == "score" and not any(a.startswith("--config") for a in arguments)):
        from dreamprm_jax.cli import score as scoring_cli

        return scoring_cli.run(command, arguments)
    if command == "search":
        from dreamprm_jax.cli import search as search_cli

        return search_cli.main(arguments)
    if command == "plan":
        from dreamprm_jax.cli import plan as planning_cli

        return planning_cli.main(arguments)
    if command not in (*STAGES, "run", "inspect", "export"):
        close = difflib.get_close_matches(command, [*STAGES, "run", *OTHER_COMMANDS], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        hint = "; the study is `python -m research.study` in a checkout" if command == "study" else hint
        print(f"dreamprm: unknown command {command!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    options, overrides = _parser(command).parse_known_args(arguments)
    config = load_config(options.config, overrides)
    if command == "inspect":
        from dreamprm_jax.training.inspect import main as inspect_config

        return inspect_config(config)
    root = workdir(options.workdir or f"runs/{config.name}")
    if command == "export":
        from dreamprm_jax.training.export import export

        print(f"wrote {export(config, Paths(root), options.arm, Path(options.output)).resolve()}")
        return 0
    if command == "evaluate" and (options.problems or options.candidates):
        if not (options.problems and options.candidates):
            _fail("--problems and --candidates go together")
        from dreamprm_jax.evaluation.files import evaluate_files
        from dreamprm_jax.stages.runner import owned, record_run

        with owned(root):
            record_run(config, root)
            evaluate_files(config, Path(options.problems), Path(options.candidates), root)
        return 0
    if command != "run":
        run_stage(config, root, command)
        return 0
    paths = Paths(root)
    for name in STAGES:
        run_stage(config, root, name)
    if config.distributed.mode != "off":
        from dreamprm_jax.training.distributed import is_main

        if not is_main():
            return 0
    headline = paths.table().read_text(encoding="utf-8").split("\n\n\n")[0]
    print(f"\n{headline}\n\nall tables: {paths.table().resolve()}")
    print(f"report: {paths.report().resolve()}")
    return 0


def workdir(place: str) -> Path:
    """The folder of a run. Raises DataError on an address: as a path it would be a folder of that name on this disk."""
    from dreamprm_jax.schema import DataError

    if "://" in place:
        raise DataError(f"--workdir={place}: a folder of the file system is needed (NFS, Filestore, a mounted bucket)")
    return Path(place)


def _parser(command: str) -> argparse.ArgumentParser:
    from dreamprm_jax.config import Config

    needed = _closure({"export": "train"}.get(command, command)) if command in (*STAGES, "export") else list(STAGES)
    sections = {section for name in needed for section in STAGES[name].sections}
    if command in (*STAGES, "run"):
        sections.add("distributed")
    summary = {
        "run": "all stages in order: finished ones are reused, a killed one resumes",
        "inspect": "parameters, shardings, compiled memory and FLOPs of a training step, ahead of time",
        "export": "writes a trained reward model as a Hugging Face folder, adapters merged, with its tokenizer",
    }.get(command) or STAGES[command].summary
    parser = argparse.ArgumentParser(
        prog=f"dreamprm {command}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog=settings_epilog(Config(), sections),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="Python file with get_config()")
    if command != "inspect":
        parser.add_argument("--workdir", metavar="DIR", help="folder of the run (default: runs/NAME of the config)")
    if command == "export":
        parser.add_argument("--arm", default="corrected", help="which reward model (default: corrected)")
        parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write; new or empty")
    if command == "evaluate":
        parser.add_argument(
            "--problems", metavar="FILE", help="problems in the official LiveCodeBench row format (JSONL)"
        )
        parser.add_argument("--candidates", metavar="FILE", help="programs: eval_all JSON, JSONL or our Parquet")
    return parser


def _closure(name: str) -> list[str]:
    names = [name]
    for needed in STAGES[name].inputs:
        names += [n for n in _closure(needed) if n not in names]
    return names


def settings_epilog(defaults: Any, sections: set[str] | None = None) -> str:
    """The settings (of some sections, or all) with their defaults, as ``--help`` shows them."""
    lines = [
        f"  --config.{name}={value}"
        for name, value in leaves(defaults)
        if sections is None or name.split(".")[0] in sections
    ]
    return "\n".join(["settings, with their defaults (a config file may set others):", *lines])


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of nested dataclasses by its dotted name, with its value."""
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from leaves(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, item


def load_config(path: str, overrides: list[str]) -> Any:
    """Reads a run's config file, applies ``--config.field=value`` overrides, checks every type.

    Raises:
      DataError: as ``load_settings``.
    """
    from dreamprm_jax.config import Config, freeze

    return freeze(load_settings(path, overrides, Config()))


def load_settings(path: str, overrides: list[str], defaults: Any) -> Any:
    """The ConfigDict of a config file with overrides; ``defaults`` is the dataclass that has its fields.

    Raises:
      DataError: naming the file or the field that is wrong, with the nearest known field.
    """
    from absl import flags, logging
    from ml_collections import config_flags

    from dreamprm_jax.schema import DataError

    known = [name for name, _ in leaves(defaults)]
    for item in overrides:
        name = item.removeprefix("--config.").split("=")[0]
        if not item.startswith("--config."):
            _fail(f"unrecognized argument {item!r}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            raise DataError(f"config: no field {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if "=" not in item:
            raise DataError(f"config: field {name!r} needs a value: --config.{name}=VALUE")
    settings = _run_config_file(path)
    logging.set_verbosity(logging.ERROR)  # the checkpoint library warns of what is meant
    values, command_line = flags.FlagValues(), ["dreamprm", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=command_line)
        values(command_line)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"config: {error}") from error
    return settings


def _run_config_file(path: str) -> Any:
    """What the file's ``get_config()`` returns. Any error in it becomes a DataError that names file and line."""
    from ml_collections import config_dict

    from dreamprm_jax.schema import DataError
    from dreamprm_jax.user_code import errors_named, load_module

    with errors_named(path, "--config"):
        make = getattr(load_module(path, "--config"), "get_config", None)
        settings = make() if make is not None else None
    if not isinstance(settings, config_dict.ConfigDict):
        raise DataError(f"--config: {path}: needs a function get_config() that returns config.defaults() with changes")
    return settings


def _fail(message: str) -> NoReturn:
    print(f"dreamprm: error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
