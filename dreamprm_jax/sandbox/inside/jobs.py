"""The messages from the judge to a worker: a header on the control socket, and a job file by descriptor."""

from __future__ import annotations

import struct
from typing import NamedTuple

RUN, CANCEL, RUN_REPORTING = 1, 2, 3
EXITED, SIGNALLED, CPU_LIMIT, WALL_LIMIT, MEMORY_LIMIT, CANCELLED, FAILED = range(7)

SEED = 20241215  # seed of the module ``random``, so that verdicts do not depend on chance
FAITHFUL, OFFICIAL = 0, 1
SCRIPT, FUNCTION = 0, 1

# a program that runs code when the interpreter clears its objects contains one of these
_ACTING = (
    "yield", "async", "open", "detach", "Buffered", "Wrapper", "weakref", "attr", "vars", "globals", "exec", "eval",
    "type(",
)  # fmt: skip
_HARMLESS = ("__name__", "__main__", "__init__")

STDERR_BYTES = 1000  # bytes of standard error that are kept, if requested
NO_LOG = "-"  # replaces the denied calls if they could not be logged
_LOG_BYTES = 3000

_REQUEST = struct.Struct("<IQdddQQ")
_REPLY = struct.Struct("<QIiddQd")


class Request(NamedTuple):
    """One message to a worker. A run comes with three descriptors: job file, output file, result file."""

    kind: int
    number: int
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0  # wall time limit, without time in which the child lacks a core
    longest_seconds: float = 0.0  # wall time limit, including that time
    memory_bytes: int = 0
    file_bytes: int = 0  # maximum size of a file that the child writes

    def pack(self) -> bytes:
        """The message's bytes."""
        return _REQUEST.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        """Reads a message."""
        return cls(*_REQUEST.unpack(data))


class Reply(NamedTuple):
    """How a child ended. The error, or the kept part of standard error, follows the message."""

    number: int
    ending: int
    value: int  # exit status or signal
    cpu_seconds: float
    wall_seconds: float = 0.0
    peak_kib: int = 0  # peak resident memory beyond the worker's own
    waited_seconds: float = 0.0  # time that the child was ready to run but had no core
    error: str = ""  # for FAILED
    stderr: str = ""  # its beginning, for RUN_REPORTING; hostile
    denied: str = NO_LOG  # system calls, one per line, for RUN_REPORTING

    def pack(self) -> bytes:
        """The message's bytes."""
        texts = [self.denied.encode()[:_LOG_BYTES], self.stderr.encode("utf-8", "replace")]
        end = self.error.encode("utf-8", "replace")[:2000] if self.ending == FAILED else b"\0".join(texts)
        return _REPLY.pack(*self[:7]) + end

    @classmethod
    def unpack(cls, data: bytes) -> Reply:
        """Reads a message."""
        reply, text = cls(*_REPLY.unpack_from(data)), data[_REPLY.size :].decode("utf-8", "replace")
        if reply.ending == FAILED:
            return reply._replace(error=text)
        denied, _, stderr = text.partition("\0")
        return reply._replace(denied=denied, stderr=stderr)


def ends_quietly(code: str) -> bool:
    """Whether the text alone shows that nothing happens when the interpreter clears the program's objects."""
    special = code.count("__") - 2 * sum(map(code.count, _HARMLESS))
    return special <= 0 and not any(word in code for word in _ACTING)


class Job(NamedTuple):
    """The job file: how to run the program, its code, and the inputs of consecutive tests.

    The child counts these tests from 0: their position among all tests would reveal the results of earlier tests.
    """

    mode: int
    kind: int
    timeout: int  # official mode: seconds of the alarm
    value_limit: int  # maximum size of the encoded value
    code: bytes
    function: bytes
    inputs: list[bytes]
    ends_quietly: bool = False  # known without inspecting the compiled code
    kills: bool = False  # a denied system call kills the process, and a denied file fails the test

    def pack(self) -> bytes:
        """The file's bytes."""
        sizes = [len(self.code), len(self.function), *map(len, self.inputs)]
        head = struct.pack(
            f"<BBBBIQI{len(sizes)}Q",
            self.mode, self.kind, self.ends_quietly, self.kills,
            self.timeout, self.value_limit, len(self.inputs), *sizes,
        )  # fmt: skip
        return b"".join([head, self.code, self.function, *self.inputs])

    @classmethod
    def unpack(cls, data: bytes) -> Job:
        """Reads the file."""
        head = struct.Struct("<BBBBIQI")
        mode, kind, quiet, kills, timeout, value_limit, count = head.unpack_from(data)
        sizes = struct.unpack_from(f"<{count + 2}Q", data, head.size)
        parts, position = [], head.size + 8 * (count + 2)
        for size in sizes:
            parts.append(data[position : position + size])
            position += size
        return cls(mode, kind, timeout, value_limit, parts[0], parts[1], parts[2:], bool(quiet), bool(kills))
