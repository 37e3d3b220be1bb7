"""LiveCodeBench mode: runs a program in the same way as the official evaluator, including its peculiarities.

This module follows lcb_runner/evaluation/testing_util.py of the LiveCodeBench repository at commit 28fef95 in
everything that a program can notice: the prelude, the code moved into a function, the replaced ``sys.stdin`` and
``sys.stdout``, the alarm per test (six seconds by default), the disabled functions, and one process for all tests. The
judge does the comparison.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from types import FrameType, ModuleType
from typing import Any

from . import frames, values
from .jobs import FUNCTION, SEED, Job
from .report import describe, report, status_of

_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)
PRELUDE = (
    "".join(f"from {name} import *\n" for name in f"{_MODULES} builtins typing".split())
    + "".join(f"import {name}\n" for name in _MODULES.split())
    + "sys.setrecursionlimit(50000)\n"
)
_DISABLED_OS = """
    kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace unlink
    fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir
"""
_DISABLED_MODULES = ("ipdb", "joblib", "resource", "psutil", "tkinter")


class TimeoutException(Exception):
    """The alarm went off. The name is the official one, because programs may see it."""


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    print("timeout occured: alarm went off")
    raise TimeoutException


def run(job: Job, module: ModuleType) -> None:
    """Runs the tests of a job in order and reports each; ``module`` is the result of ``prepare``."""
    signal.signal(signal.SIGALRM, _on_alarm)
    sys.set_int_max_str_digits(50_000)
    if b"multiprocessing" in job.code or b"concurrent" in job.code:
        import multiprocessing  # noqa: F401  # the evaluator has it loaded; impossible after ``os.getcwd`` is disabled
    _disable()
    try:
        if job.kind == FUNCTION:
            _call_based(job, module)
        else:
            _standard_input(job, module)
    except Exception as error:  # "Error during testing": one code for all tests
        status = frames.COMPILE if isinstance(error, SyntaxError) else status_of(error)
        report(0, status, b"!" + describe(error), last=True)


def _disable() -> None:
    builtins.quit = None  # type: ignore[assignment]
    builtins.help = None  # type: ignore[assignment]
    for name in _DISABLED_OS.split():
        setattr(os, name, None)
    shutil.rmtree = shutil.move = shutil.chown = None  # type: ignore[assignment]
    subprocess.Popen = None  # type: ignore[assignment,misc]
    for name in _DISABLED_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]


def prepare() -> ModuleType:
    """The module in which a program runs, with the prelude's names. The worker creates it, and a child uses it once."""
    sys.argv[:] = ["main.py"]
    random.seed(SEED)
    sys.__stdin__ = io.TextIOWrapper(io.BytesIO())  # type: ignore[misc]
    sys.__stdin__.close()  # as in a process that multiprocessing started
    module = ModuleType("tmp_sol", "")
    exec(PRELUDE, module.__dict__)
    return module


def _compile(code: str, module: ModuleType, timeout: int) -> Any:
    signal.alarm(timeout)
    try:
        sys.setrecursionlimit(50_000)  # as the prelude does
        # the evaluator puts the prelude before the code: one statement makes ``from __future__`` fail in the same way
        exec(compile("import sys\n" + code, "<string>", "exec", dont_inherit=True), module.__dict__)
        return module.Solution() if "class Solution" in code else module
    finally:
        signal.alarm(0)


def _call_based(job: Job, module: ModuleType) -> None:
    code = job.code.decode("utf-8", "surrogatepass")
    method = getattr(_compile(code, module, job.timeout), job.function.decode(), None)
    if method is None:
        raise TypeError("cannot unpack non-iterable NoneType object")
    texts = [text.decode("utf-8", "surrogatepass") for text in job.inputs]
    for text in texts:  # the evaluator also parses all first; the results are dropped, so no test finds another's input
        _arguments(text)
    for index, text in enumerate(texts):
        arguments = _arguments(text)
        signal.alarm(job.timeout)
        try:
            prediction = method(*arguments)
            signal.alarm(0)
            encoded = values.canonical(prediction, job.value_limit, wildcards=True)
        except values.TooLarge:
            report(index, frames.TOO_LARGE)
        except Exception as error:
            signal.alarm(0)
            report(index, _status(error), describe(error), last=True)
            return
        else:
            report(index, frames.OK, encoded.encode("ascii"), last=index + 1 == len(texts))
        finally:
            signal.alarm(0)


def _arguments(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n")]


def _status(error: Exception) -> int:
    return frames.TIMEOUT if "timeoutexception" in repr(error).lower() else status_of(error)


def _standard_input(job: Job, module: ModuleType) -> None:
    code = _as_function(_without_main_guard(job.code.decode("utf-8", "surrogatepass")))
    method = getattr(_compile(code, module, job.timeout), "wrapped_function", None)
    if method is None:
        raise TypeError("cannot unpack non-iterable NoneType object")
    for index, text in enumerate(job.inputs):
        signal.alarm(job.timeout)
        captured = io.StringIO()
        captured.close = lambda x: 1  # type: ignore[assignment,misc]
        stdout, sys.stdout = sys.stdout, captured
        try:
            _call(method, text.decode("utf-8", "surrogatepass"))
            signal.alarm(0)
        except Exception as error:
            signal.alarm(0)
            report(index, _status(error), describe(error), last=True)
            return
        finally:
            signal.alarm(0)
            sys.stdout = stdout
        output = captured.getvalue().encode("utf-8", "surrogatepass")
        if len(output) > job.value_limit:
            report(index, frames.TOO_LARGE)
        else:
            report(index, frames.OK, output, last=index + 1 == len(job.inputs))


def _without_main_guard(code: str) -> str:
    try:
        tree = ast.parse(code)
        last = tree.body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
            return ast.unparse(tree.body[:-1]) + "\n" + ast.unparse(last.body)  # type: ignore[arg-type]
    except Exception:
        pass
    return code


def _as_function(code: str) -> str:
    try:
        body = ast.parse(code).body
        imports = [statement for statement in body if isinstance(statement, (ast.Import, ast.ImportFrom))]
        others = [statement for statement in body if not isinstance(statement, (ast.Import, ast.ImportFrom))]
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        function = ast.FunctionDef(name="wrapped_function", args=nothing, body=others, decorator_list=[], lineno=-1)
        return ast.unparse(imports) + "\n" + ast.unparse(function)  # type: ignore[arg-type]
    except Exception:
        return code


class MockBuffer:
    """The official replacement of ``sys.stdin.buffer``: every ``readline`` returns the first line."""

    def __init__(self, inputs: str) -> None:
        self.inputs = inputs.encode("utf-8")

    def read(self, *args: Any) -> bytes:
        """All of the input, regardless of what was read before."""
        return self.inputs

    def readline(self, *args: Any) -> bytes:
        """The first line."""
        return self.inputs.split(b"\n")[0] + b"\n"


class MockStdinWithBuffer:
    """The official replacement of ``sys.stdin``."""

    def __init__(self, inputs: str) -> None:
        self.inputs = inputs
        self._stringio = io.StringIO(inputs)
        self.buffer = MockBuffer(inputs)

    def read(self, *args: Any) -> str:
        """All of the input, regardless of what was read before."""
        return self.inputs

    def readline(self, *args: Any) -> str:
        """The next line."""
        return self._stringio.readline(*args)

    def readlines(self, *args: Any) -> list[str]:
        """All lines, without their ends."""
        return self.inputs.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stringio, name)


def _mocked_open(inputs: str) -> Any:
    """The official ``builtins.open``: every file contains the input. (The prelude's ``open`` is the real function.)"""
    real: Any = open
    mock: list[Any] = []

    def opened(*args: Any, **more: Any) -> Any:
        if not mock:  # the module is loaded only for the few programs that need it
            builtins.open = real
            from unittest.mock import mock_open

            mock.append(mock_open(read_data=inputs))
            builtins.open = opened
        return mock[0](*args, **more)

    return opened


def _call(method: Any, inputs: str) -> None:
    lines = iter(inputs.split("\n"))
    stdin: Any = sys.stdin  # the real one: programs with ``from sys import stdin`` see these three
    stdin.readline = lambda *args: next(lines)
    stdin.readlines = lambda *args: inputs.split("\n")
    stdin.read = lambda *args: inputs
    sys.stdin = MockStdinWithBuffer(inputs)
    real_open, builtins.open = open, _mocked_open(inputs)
    try:
        method()
    except SystemExit:
        pass
    finally:
        builtins.open = real_open
        sys.stdin = stdin
        for name in ("readline", "readlines", "read"):
            stdin.__dict__.pop(name, None)
