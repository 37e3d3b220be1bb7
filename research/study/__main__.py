"""``python -m research.study``: trains every labeling in every regime of label noise, over many seeds."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from dreamprm_jax.cli.options import settings_help, workdir_of
from dreamprm_jax.config import load_settings
from dreamprm_jax.runs.stop_signals import run_until_stopped
from dreamprm_jax.schema import DataError
from research.study.settings import typed

# Each module has DESCRIPTION, SETTINGS (a dataclass), OPTIONS and run(settings, folder, **options) -> written files.
COMMANDS = {
    "": "run",
    "labels": "label_grid",
    "codeio": "codeio_cli",
    "codeio-files": "codeio_files",
    "codeio-measure": "codeio_measure",
    "codeio-heads": "codeio_heads",
}


def main(arguments: list[str]) -> int:
    """Runs the command. Returns the exit status: 0 or 2 (bad input)."""
    try:
        if arguments[:1] == ["document"]:
            from research.study import document

            written = document.rewrite(arguments[1:])
        else:
            name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("", arguments)
            module = importlib.import_module(f"research.study.{COMMANDS[name]}")
            program = f"python -m research.study {name}".strip()
            options = parser(program, module.DESCRIPTION, module.SETTINGS(), module.OPTIONS)
            given, overrides = options.parse_known_args(rest)
            settings = typed(module.SETTINGS, load_settings(given.config, overrides, module.SETTINGS()))
            flags = {flag.strip("-"): getattr(given, flag.strip("-")) for flag in module.OPTIONS}
            written = module.run(settings, workdir_of(given, settings), **flags)
    except DataError as error:
        print(f"research.study: error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"wrote {path.resolve()}")
    return 0


def parser(
    program: str, description: str, defaults: Any, options: dict[str, dict[str, Any]] | None = None
) -> argparse.ArgumentParser:
    """The command-line parser of a study. Its ``--help`` also lists the settings."""
    made = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=settings_help(defaults),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--config", required=True, metavar="FILE", help="Python file with get_config(): research/configs")
    made.add_argument("--workdir", metavar="DIR", help="folder of the study (default: runs/NAME of the config)")
    for flag, values in (options or {}).items():
        made.add_argument(flag, **values)
    return made


if __name__ == "__main__":
    run_until_stopped(lambda: main(sys.argv[1:]))
