"""Functions of the user's own: a config file's ``get_config``, and what a setting names as FILE.py:FUNCTION.

Such a file is the user's program and runs in this process with all rights, unlike the programs that the judge is given.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamprm_jax.schema import DataError, content_hash


def is_own(setting: str) -> bool:
    """Whether a setting names a function in a file, FILE.py:FUNCTION, and not one of the package's by its name."""
    file, _, function = setting.rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def identity(setting: str) -> str:
    """What a setting FILE.py:FUNCTION means: the function's name and a hash of the file's text, wherever it lies."""
    file, _, function = setting.rpartition(":")
    try:
        return f"{function}/{content_hash(Path(file).read_text(encoding='utf-8'), digits=16)}"
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{setting}: {file} cannot be read ({error})") from error


def call(setting: str, field: str, *arguments: Any) -> Any:
    """Calls the function that ``setting``, the value of ``field``, names.

    Raises:
      DataError: when the file or the function is missing, or anything raises in it; with the line, where there is one.
    """
    file, _, name = setting.rpartition(":")
    with errors_named(file, field):
        function: Callable[..., Any] | None = getattr(load_module(file, field), name, None)
        if function is not None:
            return function(*arguments)
    raise DataError(f"{field}: {file} has no function {name!r}")


def load_module(path: str, field: str) -> ModuleType:
    """Runs a Python file as a module of its own. Raises DataError where there is none, and what the file raises."""
    if not Path(path).is_file():
        raise DataError(f"{field}: {path}: no such file")
    module = ModuleType(f"dreamprm_own_{content_hash(str(Path(path).resolve()), digits=8)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where dataclasses look up the annotations of a class
    exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)  # no cached bytecode beside the file
    return module


@contextlib.contextmanager
def errors_named(path: str, field: str) -> Iterator[None]:
    """Turns any error in the user's file into a DataError that names file and line."""
    try:
        yield
    except DataError:
        raise
    except SyntaxError as error:
        raise DataError(f"{field}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # it is the user's program
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == path]
        raise DataError(f"{field}: {path}{lines[-1] if lines else ''}: {type(error).__name__}: {error}") from error
