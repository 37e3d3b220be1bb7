"""The command line: ``dreamprm COMMAND ...``. Every expected error is printed as one line that says what to do."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_ADVICE = {
    "EACCES": "check the permissions",
    "EROFS": "the file system is read-only",
    "ENOTDIR": "a part of this path is a file",
    "EISDIR": "this is a folder",
    "ENOENT": "it does not exist",
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENOSPC": "free some space and run the same command again: finished work is kept",
    "EDQUOT": "free some space and run the same command again: finished work is kept",
}


def script() -> NoReturn:
    """The entry point of ``dreamprm``: runs one command. Ctrl-C and SIGTERM end the process within seconds."""
    from dreamprm_jax.runs.stop_signals import run_until_stopped

    run_until_stopped(main)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, 1 (the work failed) or 2 (bad input or usage)."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["--version"]:
        from dreamprm_jax import __version__

        print(f"dreamprm {__version__}")
        return 0
    from dreamprm_jax.cli.registry import find_command, run_command, usage

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    from dreamprm_jax.schema import DataError

    name, rest = arguments[0], arguments[1:]
    try:
        return run_command(find_command(name, rest), rest)
    except DataError as error:
        print(f"dreamprm {name}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has ended, as in `dreamprm status ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        print(f"dreamprm {name}: error: {_explained(error)}", file=sys.stderr)
        return 2


def _explained(error: OSError) -> str:
    """The message for an OSError: the path, the system's reason and what to do."""
    import errno

    advice = _ADVICE.get(errno.errorcode.get(error.errno or 0, ""), "")
    parts = [str(error.filename) if error.filename is not None else "", error.strerror or str(error)]
    return ": ".join(filter(None, parts)) + (f"; {advice}" if advice else "")
