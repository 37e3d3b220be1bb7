"""The child's reports to the judge on finished tests."""

from __future__ import annotations

import errno
import os

from . import frames

OUTPUT_FD = 254  # an early duplicate of standard output, which the program may close
RESULT_FD = 255  # append-only file that the judge reads; a high number, because a program's descriptors start at 3


def report(test: int, status: int, payload: bytes = b"", last: bool = False) -> None:
    """Appends one frame to the result file."""
    data = frames.pack(frames.Frame(test, status, last, os.lseek(OUTPUT_FD, 0, os.SEEK_END), payload))
    while data:
        data = data[os.write(RESULT_FD, data) :]


def describe(error: BaseException) -> bytes:
    """The error's type and the beginning of its message; neither is trusted."""
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return text[:300].encode("utf-8", "backslashreplace")
    except BaseException:
        return b"exception"


def status_of(error: BaseException) -> int:
    """The frame status of an uncaught exception."""
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return frames.MEMORY if no_memory else frames.RAISED
