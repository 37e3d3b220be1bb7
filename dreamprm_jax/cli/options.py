"""Options that several commands share: the config file, the run's folder, the settings in ``--help``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, leaves, load_config
from dreamprm_jax.schema import DataError


def add_config(parser: argparse.ArgumentParser, workdir: bool = True, required: bool = True) -> None:
    """Adds ``--config`` and, where the command works in a run's folder, ``--workdir``."""
    parser.add_argument("--config", required=required, default="", metavar="FILE", help="Python file with get_config()")
    if workdir:
        parser.add_argument("--workdir", metavar="DIR", help="folder of the run (default: runs/NAME of the config)")


def config_of(args: argparse.Namespace) -> Config:
    """The settings that ``--config`` and ``--config.FIELD=VALUE`` give."""
    return load_config(args.config, args.overrides)


def workdir_of(args: argparse.Namespace, config: Any) -> Path:
    """The folder of the run: ``--workdir``, or runs/NAME of the settings.

    Raises:
      DataError: on an address, which as a path would be a folder of that name on this disk; on a file.
    """
    place = args.workdir or f"runs/{config.name}"
    if "://" in place:
        raise DataError(f"--workdir={place}: a folder of the file system is needed (NFS, Filestore, a mounted bucket)")
    if Path(place).exists() and not Path(place).is_dir():
        raise DataError(f"--workdir={place}: is a file; name a folder")
    return Path(place)


def settings_help(defaults: Any, sections: Collection[str] | None = None) -> str:
    """The settings of some sections, or all, with their defaults and descriptions, as ``--help`` shows them."""
    lines = ["settings, with their defaults (a config file may set others):"]
    for name, value, info in leaves(defaults):
        if sections is None or name.split(".")[0] in sections:
            lines.append(f"  --config.{name}={value}")
            lines += textwrap.wrap(info.help, 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
