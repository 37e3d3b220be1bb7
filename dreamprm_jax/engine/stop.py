"""SIGTERM (preemption, a queue's limit) and Ctrl-C as requests to stop, so that work in flight may end in order."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import FrameType, TracebackType

from dreamprm_jax.runs.stop_signals import STOP_SIGNALS, stops_by_itself


class StopRequest:
    """Context manager: within it, the first signal only sets ``requested``; a second one ends the process at once.

    In a thread other than the main one, where no handler can be set, it does nothing.
    """

    def __init__(self, grace_seconds: float) -> None:
        """``grace_seconds``: how long work in flight may take after the signal."""
        self.grace_seconds = grace_seconds
        self.signal: int | None = None
        self._at = 0.0
        self._cleanup = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def overdue(self) -> bool:
        """Whether it came more than ``grace_seconds`` ago."""
        return self.requested and time.monotonic() > self._at + self.grace_seconds

    @property
    def exit_status(self) -> int:
        """What a process that a signal stopped ends with: 130 or 143."""
        return 128 + (self.signal or 0)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._cleanup.enter_context(stops_by_itself())
            for number in STOP_SIGNALS:
                self._cleanup.callback(signal.signal, number, signal.signal(number, self._request))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(self.exit_status)
        self.signal, self._at = number, time.monotonic()
        print(
            f"\n{signal.Signals(number).name}: no new work; waiting up to {self.grace_seconds:g} s for work in flight",
            file=sys.stderr,
            flush=True,
        )
