"""Graceful stop after SIGTERM (preemption, a job's time limit) or Ctrl-C: work in flight may finish."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import FrameType, TracebackType

from dreamprm_jax.runs.stop_signals import STOP_SIGNALS, stops_by_itself


class StopRequest:
    """Context manager in which the first signal only sets ``requested``; a second one exits the process immediately.

    It has no effect outside the main thread, because Python allows signal handlers only there.
    """

    def __init__(self, grace_seconds: float) -> None:
        """``grace_seconds``: time that work in flight may take after the signal."""
        self.grace_seconds = grace_seconds
        self.signal: int | None = None
        self._requested_at = 0.0
        self._cleanup = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    @property
    def overdue(self) -> bool:
        """Whether a signal was received more than ``grace_seconds`` ago."""
        return self.requested and time.monotonic() > self._requested_at + self.grace_seconds

    @property
    def exit_status(self) -> int:
        """Exit status of a process that a signal stopped: 130 or 143."""
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
        self.signal, self._requested_at = number, time.monotonic()
        print(
            f"\n{signal.Signals(number).name}: no new work; waiting up to {self.grace_seconds:g} s for work in flight",
            file=sys.stderr,
            flush=True,
        )
