"""User code: a config file's ``get_config``, and functions that a setting names as FILE.py:FUNCTION.

Such a file runs in this process with full permissions, unlike the programs that are judged. It may import modules from
its folder.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamprm_jax.schema import DataError, content_hash


def is_user_function(setting: str) -> bool:
    """Whether a setting's value has the form FILE.py:FUNCTION; otherwise it names a built-in function."""
    file, _, function = setting.rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def user_function_digest(setting: str) -> str:
    """The function's name, and a hash of its file and of the modules in the same folder that the file imports.

    Raises:
      DataError: if a file cannot be read.
    """
    file, _, function = setting.rpartition(":")
    texts: dict[Path, str] = {}

    def read(path: Path) -> None:
        try:
            texts[path] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{setting}: {path} cannot be read ({error})") from error
        for name in _imported(texts[path]):
            sibling = path.parent / f"{name}.py"
            if sibling not in texts and sibling.is_file():
                read(sibling)

    read(Path(file))
    return f"{function}/{content_hash(*texts.values(), digits=16)}"


def _imported(text: str) -> list[str]:
    """Sorted top-level names of the modules that a program imports."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return sorted({name.split(".")[0] for name in names})


def call_user_function(setting: str, field: str, *arguments: Any) -> Any:
    """Calls the function that ``setting`` names; ``field`` is the setting's name. Raises as ``call_file``."""
    file, _, name = setting.rpartition(":")
    return call_file(file, name, field, *arguments)


def call_file(path: str, name: str, field: str, *arguments: Any) -> Any:
    """Executes a Python file as a module and calls its function ``name``. ``field`` names the setting in errors.

    Raises:
      DataError: if the file or the function is missing, or if the code raises, with the line if it is in this file.
    """
    if not Path(path).is_file():
        raise DataError(f"{field}: {path}: no such file")
    with _errors_named(path, field), _sibling_imports(Path(path).resolve().parent):
        function: Callable[..., Any] | None = getattr(_run(path), name, None)
        if function is not None:
            return function(*arguments)
    raise DataError(f"{field}: {path} has no function {name!r}")


def _run(path: str) -> ModuleType:
    module = ModuleType(f"dreamprm_user_{content_hash(str(Path(path).resolve()), digits=8)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look up the annotations of a class there
    exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)  # writes no bytecode file
    return module


@contextlib.contextmanager
def _sibling_imports(folder: Path) -> Iterator[None]:
    """Makes modules in ``folder`` importable.

    On exit they are removed from ``sys.modules``, because other folders may have modules of the same names.
    """
    before, bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().parent == folder and not name.startswith("dreamprm_user_"):
                del sys.modules[name]


@contextlib.contextmanager
def _errors_named(path: str, field: str) -> Iterator[None]:
    """Converts any error in the user's file to a DataError that names file and line."""
    try:
        yield
    except DataError:
        raise
    except SyntaxError as error:
        raise DataError(f"{field}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # user code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == path]
        raise DataError(f"{field}: {path}{lines[-1] if lines else ''}: {type(error).__name__}: {error}") from error
