"""Faithful mode: the program as a script with real descriptors, or a function called with JSON arguments."""

from __future__ import annotations

import _thread
import atexit
import builtins
import decimal
import gc
import io
import json
import os
import random
import sys
import weakref
from types import CodeType, ModuleType
from typing import Any

from . import denials, frames, sharing, values
from .jobs import FUNCTION, SEED, Job
from .report import describe, report, status_of

_RECURSION_LIMIT = 1000  # as in a plain interpreter; functions have the limit of the official prelude
_PRELUDE_RECURSION_LIMIT = 50_000


def run(job: Job, inputs: list[int], prelude: dict[str, Any]) -> None:
    """Runs the tests of a job in order and reports each.

    Args:
      job: The program and its tests.
      inputs: Descriptors of the tests' standard input, positioned at the beginning.
      prelude: Builtins of a function's module: Python's builtins and the names of the official prelude. These are
        builtins because copying them for each test would touch hundreds of shared pages.
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
    shares = (count == 1 and job.ends_quietly) or sharing.may_share(code)
    if not shares:
        count = 1
        for stdin in inputs[1:]:
            os.close(stdin)
        # the presence of other tests would tell the program which test this is
        del inputs[1:], job.inputs[1:]
    for position in range(count):
        limit = _PRELUDE_RECURSION_LIMIT if job.kind == FUNCTION else _RECURSION_LIMIT
        _fresh_state(inputs[position], limit, again=position > 0)
        if job.kind == FUNCTION:
            status, payload = _call(code, job, job.inputs[position], prelude)
        else:
            status, payload = _script(code)
        flushed = _end_of_process(clear=not shares)
        if status == frames.OK and not flushed:
            status, payload = frames.EXITED, b"120"
        try:
            report(position, status, payload, last=position + 1 == count)
        except OSError:  # the program closed the file: the exit status of the process shows how it ended
            if status != frames.OK:
                raise


def _fresh_state(stdin: int, recursion_limit: int, again: bool) -> None:
    os.dup2(stdin, 0)
    # as a plain interpreter opens them in a C.UTF-8 locale; line ends are not translated, not even when reading
    names = (("stdin", 0, "surrogateescape"), ("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace"))
    for name, descriptor, errors in names:
        access = "w" if descriptor else "r"
        raw: Any = io.FileIO(descriptor, access, closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedWriter(raw) if descriptor else io.BufferedReader(raw)
        stream: Any = io.TextIOWrapper(buffer, "utf-8", errors, "\n", line_buffering=descriptor == 2)
        stream.mode = access
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["solution.py"]
    sys.setrecursionlimit(recursion_limit)
    if again:  # state that an earlier test may have changed
        sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
        decimal.setcontext(decimal.Context())
        random.seed(SEED)
        gc.enable()


def _script(code: CodeType) -> tuple[int, bytes]:
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__="solution.py", __cached__=None, __annotations__={})
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        return _uncaught(error)
    return frames.OK, b""


def _uncaught(error: BaseException) -> tuple[int, bytes]:
    """Passes an exception to ``sys.excepthook``, which may exit by itself."""
    status, payload = status_of(error), describe(error)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as other:
        return _exit_status(other)
    except BaseException:
        pass
    return status, payload


def _exit_status(error: SystemExit) -> tuple[int, bytes]:
    code = error.code
    if isinstance(code, int):
        status = code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    else:
        status = 0 if code is None else 1
        if status:
            _call_quietly(builtins, "print", code, file=sys.stderr)
    return (frames.EXITED, str(status).encode()) if status else (frames.OK, b"")


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
        if denials.denied:  # for a checker
            return frames.RAISED, f"PermissionError: {denials.denied[0]}".encode("utf-8", "backslashreplace")[:300]
        return frames.OK, values.canonical(result, job.value_limit).encode("ascii")
    except values.TooLarge:
        return frames.TOO_LARGE, b""
    except values.Ambiguous:
        return frames.RAISED, b"the truth value of an array is ambiguous"
    except BaseException as error:
        return status_of(error), describe(error)


def _end_of_process(clear: bool) -> bool:
    """Does what the interpreter does at its end (``Py_FinalizeEx``), without destroying the interpreter.

    Args:
      clear: Whether to clear the program's objects as well: open files are flushed, ``__del__`` runs.

    Returns:
      Whether standard output was flushed; if not, a plain interpreter's exit status is 120.
    """
    for name in ("stderr", "stdout"):  # as CPython does after each script
        _call_quietly(getattr(sys, name, None), "flush")
    if _thread._count() or "concurrent.futures.thread" in sys.modules:  # otherwise the call has no effect
        _call_quietly(sys.modules.get("threading"), "_shutdown")  # joins non-daemon threads
    _call_quietly(atexit, "_run_exitfuncs")
    flushed = _flush(getattr(sys, "stdout", None))
    _flush(getattr(sys, "stderr", None))
    original = getattr(sys, "__stdout__", None)
    if clear:
        for name in ("stdin", "stdout", "stderr"):
            setattr(sys, name, getattr(sys, f"__{name}__", None))
        _clear_main()
    _call_quietly(original, "flush")  # as its deallocation would
    return flushed


def _call_quietly(owner: Any, method: str, *args: Any, **more: Any) -> None:
    try:  # noqa: SIM105  # contextlib's class costs each program ten page faults
        getattr(owner, method)(*args, **more)
    except BaseException:
        pass


def _flush(stream: Any) -> bool:
    """CPython's ``flush_std_files``: a stream without a readable ``closed`` counts as open."""
    try:
        if stream is None or stream.closed:
            return True
    except BaseException:
        pass
    try:
        stream.flush()
    except BaseException:
        return False
    return True


class _Witness:
    """An object that is alive as long as the globals that contain it."""


def _clear_main() -> None:
    """Drops the program's globals; if something else references them, clears them, as CPython finally does."""
    main = sys.modules.pop("__main__", None)
    if not isinstance(main, ModuleType):
        return
    witness = _Witness()
    alive = weakref.ref(witness)
    main.__dict__["__witness__"] = witness
    del main, witness
    gc.collect()
    for names in gc.get_referrers(alive()) if alive() is not None else ():
        for name in list(names) if isinstance(names, dict) else ():
            if name != "__builtins__":
                names[name] = None
    gc.collect()
