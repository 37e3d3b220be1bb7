"""Faithful mode: the program as a script with real descriptors, or a function called with JSON arguments."""

from __future__ import annotations

import atexit
import decimal
import gc
import json
import os
import random
import sys
from types import CodeType, ModuleType
from typing import Any

from . import frames, sharing, values
from .jobs import FUNCTION, Job
from .report import describe, report, status_of

_SEED = 20241215  # of the module ``random``: a program's verdict does not depend on chance
_RECURSION_LIMIT = 1000  # a plain interpreter's; the official prelude's for functions
_PRELUDE_RECURSION_LIMIT = 50_000


def run(job: Job, inputs: list[int], prelude: dict[str, Any]) -> None:
    """Runs the tests of a job in order and reports each.

    Args:
      job: the program and its tests.
      inputs: descriptors that hold the tests' standard input, at their start.
      prelude: the builtins of a function's module: Python's own and the official prelude's names. Found there, they
        need not be copied for each test, which would touch hundreds of shared pages.
    """
    try:
        code = compile(job.code, "solution.py", "exec", dont_inherit=True)
    except MemoryError:
        report(0, frames.MEMORY, last=True)
        return
    except BaseException as error:
        report(0, frames.COMPILE, describe(error), last=True)
        return
    count = len(inputs)
    if count > 1 and not sharing.may_share(code):
        count = 1
        for stdin in inputs[1:]:
            os.close(stdin)
        # whether other tests were sent along would tell the program which test this is
        del inputs[1:], job.inputs[1:]
    for position in range(count):
        _fresh_state(inputs[position], _PRELUDE_RECURSION_LIMIT if job.kind == FUNCTION else _RECURSION_LIMIT)
        if job.kind == FUNCTION:
            status, payload = _call(code, job, job.inputs[position], prelude)
        else:
            status, payload = _script(code)
        flushed = _end_of_process()
        if status == frames.OK and not flushed:
            status, payload = frames.EXITED, b"120"
        report(position, status, payload, last=position + 1 == count)


def _fresh_state(stdin: int, recursion_limit: int) -> None:
    os.dup2(stdin, 0)
    names = (("stdin", 0, "r", "strict"), ("stdout", 1, "w", "strict"), ("stderr", 2, "w", "backslashreplace"))
    for name, descriptor, access, errors in names:
        stream = open(descriptor, access, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["solution.py"]
    sys.setrecursionlimit(recursion_limit)
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    decimal.setcontext(decimal.Context())
    random.seed(_SEED)
    gc.enable()


def _script(code: CodeType) -> tuple[int, bytes]:
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    main.__dict__["__file__"] = "solution.py"
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        return status_of(error), describe(error)
    return frames.OK, b""


def _exit_status(error: SystemExit) -> tuple[int, bytes]:
    code = error.code
    if code is None or (isinstance(code, int) and code & 0xFF == 0):
        return frames.OK, b""
    return frames.EXITED, str(int(code) & 0xFF if isinstance(code, int) else 1).encode()


def _call(code: CodeType, job: Job, text: bytes, prelude: dict[str, Any]) -> tuple[int, bytes]:
    try:
        arguments = [json.loads(line) for line in text.decode("utf-8", "surrogatepass").split("\n")]
    except ValueError as error:
        return frames.BAD_INPUT, describe(error)
    name = job.function.decode()
    module = ModuleType("solution")
    module.__dict__["__builtins__"] = prelude
    sys.modules["solution"] = module
    try:
        exec(code, module.__dict__)
        solution = module.__dict__.get("Solution")
        function = getattr(solution(), name) if hasattr(solution, name) else module.__dict__[name]  # type: ignore[misc]
        result = function(*arguments)
        return frames.OK, values.canonical(result, job.value_limit).encode("ascii")
    except values.TooLarge:
        return frames.TOO_LARGE, b""
    except values.Ambiguous:
        return frames.RAISED, b"the truth value of an array is ambiguous"
    except BaseException as error:
        return status_of(error), describe(error)


def _end_of_process() -> bool:
    """What the interpreter does at its end, short of tearing itself down. Returns whether the output was flushed."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()  # joins the threads that are not daemons
        atexit._run_exitfuncs()
    except BaseException:
        pass
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
        original = sys.__stdout__
        if original is not None and original is not sys.stdout and not original.closed:
            original.flush()
    except BaseException:
        return False
    return True
