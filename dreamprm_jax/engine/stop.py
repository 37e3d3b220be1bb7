"""SIGTERM (preemption, a queue's time limit) as a wish to stop, so that work in flight may end in order."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType


class StopRequest:
    """Context manager: within it, the first SIGTERM only sets ``requested``; a second one ends the process at once.

    In a thread other than the main one, where no handler can be set, it does nothing.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self._at: float | None = None
        self._previous: object = None

    @property
    def requested(self) -> bool:
        """Whether SIGTERM has come."""
        return self._at is not None

    @property
    def overdue(self) -> bool:
        """Whether SIGTERM came more than ``grace_seconds`` ago."""
        return self._at is not None and time.monotonic() > self._at + self.grace_seconds

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]
            self._previous = None

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._at is not None:
            raise SystemExit(143)
        self._at = time.monotonic()
        print(
            f"\nSIGTERM: no new work; waiting up to {self.grace_seconds:g} s for what is in flight",
            file=sys.stderr,
            flush=True,
        )
