"""The standard error of a child, if a report on its test is requested; /dev/null otherwise."""

from __future__ import annotations

import os

from . import jobs


class StandardError:
    """A pipe from the child; the beginning is kept and the rest is dropped."""

    def __init__(self, wanted: bool) -> None:
        self.start = b""
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC) if wanted else (-1, -1)
        if wanted:
            os.set_blocking(self.reader, False)

    def take(self) -> None:
        """In the child: makes the pipe its descriptor 2."""
        if self._writer >= 0:
            os.dup2(self._writer, 2)
            self.close()

    def leave(self) -> None:
        """In the worker: closes the writing end, which only the child needs."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def read(self) -> bool:
        """Reads the available data. Returns whether more may follow."""
        try:
            data = os.read(self.reader, 1 << 16) if self.reader >= 0 else b""
        except BlockingIOError:
            return True
        self.start += data[: jobs.STDERR_BYTES - len(self.start)]
        return bool(data)

    def close(self) -> None:
        """Closes both ends."""
        for descriptor in (self.reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self._writer = -1
