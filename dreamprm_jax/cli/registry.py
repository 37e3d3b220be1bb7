"""The commands of ``dreamprm``, and how each is parsed and run.

A command is a module of this package. Its docstring is the description in ``--help``. ``add_arguments(parser)`` adds
its options. ``main(args)`` runs it and returns the exit status, or raises DataError on unusable input. A module is
imported only when its command runs, so that ``--help`` is fast and the host half never loads jax.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.runs.stage_graph import STAGES, with_inputs


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      name: Name on the command line.
      module: Name within ``dreamprm_jax.cli``.
      summary: One line for ``dreamprm --help``.
      sections: Config sections that ``--config.SECTION.FIELD=VALUE`` may set; None if the command reads no config file.
    """

    name: str
    module: str
    summary: str
    sections: frozenset[str] | None = None


def _sections(*stages: str) -> frozenset[str]:
    return frozenset({"distributed"}.union(*(STAGES[one].sections for name in stages for one in with_inputs(name))))


STAGE_COMMANDS = {
    **{name: Command(name, "stage", stage.summary, _sections(name)) for name, stage in STAGES.items()},
    "run": Command(
        "run", "stage", "run all stages; reuse finished ones, resume an interrupted one", _sections(*STAGES)
    ),
}
OTHER_COMMANDS = {
    command.name: command
    for command in (
        Command("validate", "validate", "check a config file and everything it refers to", _sections(*STAGES)),
        Command("status", "status", "show the progress of a run: units, rate, time left, errors"),
        Command("judge", "judge", "run candidate programs in the sandbox and summarize their verdicts"),
        Command("convert", "convert", "convert problems and candidates between benchmark formats"),
        Command("score", "score", "with --prm and --candidates: score the steps of given programs"),
        Command("select", "select_best", "select the best candidate of each problem by its scores"),
        Command(
            "evaluate", "evaluate", "with --scores or --prm: compare selection methods on given candidates and verdicts"
        ),
        Command("labels", "labels", "export a run's step labels for other tools: TRL, PRM800K, Math-Shepherd"),
        Command("serve", "serve", "serve a reward model over HTTP (/score_steps, /pooling, ...)"),
        Command(
            "search",
            "search",
            "compare beam search over functions with best-of-N on the same budget",
            frozenset({"seed", "policy", "search", "evaluate", "sandbox"}),
        ),
        Command(
            "stepbench", "stepbench", "make and score a benchmark for locating the first wrong function of a program"
        ),
        Command(
            "plan",
            "plan",
            "estimate memory, time, price and label cost of a run; needs no accelerator",
            _sections("train"),
        ),
        Command(
            "inspect",
            "inspect",
            "show parameters, shardings, memory and FLOPs of a training step; needs no accelerator",
            _sections("train") | {"inspect"},
        ),
        Command("export", "export", "export a trained reward model as a Hugging Face folder"),
    )
}
USAGE = """\
usage: dreamprm STAGE --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIR]

Process reward models for code, trained by exact bi-level label correction in JAX.

stages of the main job, in order
{stages}

other commands
{others}

`dreamprm COMMAND --help` lists a command's options and the settings that it reads. Example:
  dreamprm run --config=configs/embedded.py --workdir=runs/embedded --config.train.steps=50
"""


def usage() -> str:
    """The text of ``dreamprm --help``."""
    stages, others = (
        "\n".join(f"  {one.name:<10} {one.summary}" for one in commands.values())
        for commands in (STAGE_COMMANDS, OTHER_COMMANDS)
    )
    return USAGE.format(stages=stages, others=others)


def find_command(name: str, arguments: list[str]) -> Command:
    """Finds a command by name. ``score`` and ``evaluate`` are stages if a config file is given.

    Raises:
      DataError: if there is no such command; the message suggests the closest name.
    """
    with_config = any(argument.startswith("--config") for argument in arguments)
    if name in OTHER_COMMANDS and name in STAGE_COMMANDS and not with_config:
        return OTHER_COMMANDS[name]
    known = {**OTHER_COMMANDS, **STAGE_COMMANDS}
    if name not in known:
        from dreamprm_jax.schema import DataError  # imported here because it is slower than --help

        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        moved = "; the study is `python -m research.study` in a checkout" if name == "study" else hint
        raise DataError(f"unknown command {name!r}{moved} (`dreamprm --help` lists them)")
    return known[name]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions, and appends the default value to each help text that does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if (
            action.default in (None, "", [], argparse.SUPPRESS)
            or isinstance(action.default, bool)
            or "(default" in text
        ):
            return text
        return f"{text.removesuffix('.')} (default: %(default)s)"


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of a command's own options, without the settings."""
    module = _module(command)
    parser = argparse.ArgumentParser(
        prog=f"dreamprm {command.name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.\n\n{module.__doc__}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=command.name)
    module.add_arguments(parser)
    return parser


def run_command(command: Command, arguments: list[str]) -> int:
    """Parses the arguments and runs the command. Returns its exit status."""
    module, parser = _module(command), parser_of(command)
    if command.sections is None:
        return module.main(parser.parse_args(arguments))
    from dreamprm_jax.cli.options import settings_help

    if any(argument in ("-h", "--help") for argument in arguments):
        parser.epilog = settings_help(_shown_settings(arguments), command.sections)
    args, overrides = parser.parse_known_args(arguments)
    args.overrides = overrides
    return module.main(args)


def _module(command: Command) -> Any:
    return importlib.import_module(f"dreamprm_jax.cli.{command.module}")


def _shown_settings(arguments: list[str]) -> Any:
    """The settings that ``--help`` shows: the given config file with its overrides, or the defaults."""
    from dreamprm_jax.config import Config, load_config

    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names.add_argument("--config")
    given, others = names.parse_known_args(arguments)
    overrides = [one for one in others if one.startswith("--config.")]
    return load_config(given.config, overrides) if given.config else Config()
