"""Options that several commands share: the config file, the run's folder, the settings in ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, SandboxConfig, leaves, load_config
from dreamprm_jax.schema import DataError


def add_config(parser: argparse.ArgumentParser, workdir: bool = True, required: bool = True) -> None:
    """Adds ``--config`` and, if the command works in the folder of a run, ``--workdir``."""
    parser.add_argument("--config", required=required, default="", metavar="FILE", help="Python file with get_config()")
    if workdir:
        parser.add_argument("--workdir", metavar="DIR", help="folder of the run (default: runs/NAME of the config)")


def config_of(args: argparse.Namespace) -> Config:
    """The settings from ``--config`` and ``--config.FIELD=VALUE``."""
    return load_config(args.config, args.overrides)


def workdir_of(args: argparse.Namespace, config: Any) -> Path:
    """The folder of the run: ``--workdir``, or runs/NAME of the settings.

    Raises:
      DataError: if it is a file, or a URL (which would become the name of a local folder).
    """
    place = args.workdir or f"runs/{config.name}"
    if "://" in place:
        raise DataError(
            f"--workdir={place}: must be a folder of a mounted file system (NFS, Filestore, a mounted bucket)"
        )
    if Path(place).exists() and not Path(place).is_dir():
        raise DataError(f"--workdir={place}: is a file; name a folder")
    return Path(place)


def settings_help(values: Any, sections: Collection[str] | None = None) -> str:
    """The ``--help`` text of the settings in ``sections`` (None: all), grouped, with values and descriptions."""
    lines = ["settings, with the values of the given config file (default values without one):"]
    group = None
    for name, value, info in leaves(values):
        section = name.partition(".")[0]
        if sections is None or section in sections:
            if "." in name and section != group:
                group = section
                lines.append(f"\n {section}:")
            shown = value.replace("\n", "\\n").replace("\t", "\\t") if isinstance(value, str) else value
            lines.append(f"  --config.{name}={shown}")
            lines += textwrap.wrap(info.help, 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def add_judge_arguments(parser: Any, mode: str = "lcb") -> None:
    """Adds the settings of section ``sandbox`` as options, for commands without a config. See ``sandbox_config``."""
    hints = typing.get_type_hints(SandboxConfig)
    for name, value, info in leaves(dataclasses.replace(SandboxConfig(), mode=mode)):  # type: ignore[arg-type]
        choices = typing.get_args(hints[name]) if isinstance(value, str) else ()
        kind = _names if isinstance(value, tuple) else type(value)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=",".join(value) if isinstance(value, tuple) else value,
            help=f"{info.help}",
            **({"choices": choices} if choices else {"type": kind}),
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def sandbox_config(args: argparse.Namespace) -> SandboxConfig:
    """The settings from the options that ``add_judge_arguments`` adds."""
    return SandboxConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(SandboxConfig)})
