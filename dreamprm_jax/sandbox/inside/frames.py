"""The records that a child writes for the judge, and their parser. Every byte that the parser reads is hostile.

A child appends one frame per finished test to its result file. A frame states how the test ended and the size of the
program's standard output at that moment, and carries a message or a value.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

OK = 0  # ran to its end; the payload is the encoded value of a functional test
RAISED = 1  # an exception; the payload names it
MEMORY = 2  # MemoryError
EXITED = 3  # sys.exit with a status other than 0
COMPILE = 4  # does not compile
TIMEOUT = 5  # the official evaluator's alarm went off
TOO_LARGE = 6  # the value is larger than the output limit
BAD_INPUT = 7  # the test's input is invalid for a functional test

_STATUSES = range(8)
_HEADER = struct.Struct("<4sIBBQI")
_MAGIC = b"DPF1"


class Frame(NamedTuple):
    """How one test ended."""

    test: int
    status: int
    last: bool  # the child runs no further test
    output_end: int  # size of the output file when the test ended
    payload: bytes


class FrameError(ValueError):
    """The bytes are not a sequence of frames."""


def pack(frame: Frame) -> bytes:
    """The bytes of one frame."""
    header = _HEADER.pack(_MAGIC, frame.test, frame.status, int(frame.last), frame.output_end, len(frame.payload))
    return header + frame.payload


def parse(data: bytes, start: int = 0) -> tuple[list[Frame], int, int]:
    """Parses the complete frames of ``data``, beginning at ``start``.

    Returns:
      The frames, the offset after the last complete one, and the minimum number of bytes missing for the next frame.

    Raises:
      FrameError: on a wrong magic number, an unknown status or a flag that is neither 0 nor 1.
    """
    frames: list[Frame] = []
    missing = _HEADER.size - (len(data) - start)
    while missing <= 0:
        magic, test, status, last, output_end, length = _HEADER.unpack_from(data, start)
        if magic != _MAGIC or status not in _STATUSES or last > 1:
            raise FrameError("malformed result frame")
        end = start + _HEADER.size + length
        if end > len(data):
            missing = end - len(data)
            break
        frames.append(Frame(test, status, bool(last), output_end, data[start + _HEADER.size : end]))
        start = end
        missing = _HEADER.size - (len(data) - start)
    return frames, start, missing
