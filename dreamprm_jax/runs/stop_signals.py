"""Ctrl-C and SIGTERM end a command within seconds, in any state.

A Python signal handler runs between two bytecodes of the main thread and raises an exception there. This is too late
while XLA compiles, and has no effect if a callback discards exceptions. Therefore a thread also receives the signals,
and ends the process if it is still running ``GRACE_SECONDS`` later. No work is lost, because every file of a run is
valid at any time.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import ClassVar, NoReturn

GRACE_SECONDS = 4.0
_MESSAGE = "\nstopped; run the same command again to continue"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STATUSES = tuple(128 + number for number in STOP_SIGNALS)
_self_stopping = 0  # nesting depth of ``stops_by_itself``


@contextmanager
def stops_by_itself() -> Iterator[None]:
    """Inside this context only the handler that is set there handles the first signal, without a time limit."""
    global _self_stopping
    _self_stopping += 1
    try:
        yield
    finally:
        _self_stopping -= 1


class StopRequest:
    """Context manager in which the first stop signal only sets ``requested``, so that work can be finished or saved.

    A second signal raises SystemExit. Nested StopRequests share the same request. If the outermost context ends without
    an exception, the signal is raised again for the earlier handlers. Outside the main thread the context manager has
    no effect, because Python allows signal handlers only there.
    """

    _received: ClassVar[list[tuple[int, float]]] = []  # (signal, time), shared by all instances of the process

    def __init__(self, announcement: str, grace_seconds: float = math.inf, *, by_itself: bool = True) -> None:
        """Sets no handler yet.

        Args:
          announcement: Text to print after the first signal.
          grace_seconds: Time that work in flight may take after the signal.
          by_itself: Whether the whole context is also a ``stops_by_itself`` context.
        """
        self.announcement = announcement
        self.grace_seconds = grace_seconds
        self._by_itself = by_itself
        self._outermost = False
        self._cleanup = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return bool(self._received)

    @property
    def overdue(self) -> bool:
        """Whether a signal was received more than ``grace_seconds`` ago."""
        return self.requested and time.monotonic() > self._received[0][1] + self.grace_seconds

    @property
    def exit_status(self) -> int:
        """Exit status of a stopped process: 130 or 143. It is 143 if only another process received the signal."""
        return 128 + (self._received[0][0] if self.requested else signal.SIGTERM)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            if self._by_itself:
                self._cleanup.enter_context(stops_by_itself())
            for number in STOP_SIGNALS:
                previous = signal.signal(number, self._request)
                self._outermost = not isinstance(getattr(previous, "__self__", None), StopRequest)
                self._cleanup.callback(signal.signal, number, previous)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._cleanup.close()
        if self._outermost and self.requested:
            number = self._received[0][0]
            self._received.clear()
            if kind is None:
                signal.raise_signal(number)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(self.exit_status)
        self._received.append((number, time.monotonic()))
        print(f"\n{signal.Signals(number).name}: {self.announcement}", file=sys.stderr, flush=True)


def stop_is_requested() -> bool:
    """Whether a ``StopRequest`` of this process has received a signal."""
    return bool(StopRequest._received)


def run_until_stopped(command: Callable[[], int]) -> NoReturn:
    """Runs a command and exits the process with its status: 130 after Ctrl-C, 143 after SIGTERM.

    After a signal the process exits without finalizing the interpreter, because threads of XLA may still run.
    """
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while data := reader.recv(1):  # empty when the interpreter exits and closes the writer
            if (number := data[0]) in STOP_SIGNALS:
                if not _self_stopping or received:
                    timer = threading.Timer(GRACE_SECONDS, end_now, (number,))
                    timer.daemon = True
                    timer.start()
                received.append(number)

    def end_now(number: int) -> NoReturn:
        if signal.getsignal(number) is not exit_again:  # ``stop`` has not run
            print(_MESSAGE, file=sys.stderr, flush=True)
        _exit_now(128 + number)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for each in STOP_SIGNALS:
            signal.signal(each, exit_again)
        print(_MESSAGE, file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    def exit_again(number: int, frame: FrameType | None) -> NoReturn:
        _exit_now(128 + number)

    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a forked child must not write to this socket
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    threading.Thread(target=watch, name="stop signals", daemon=True).start()
    try:
        sys.exit(command())
    except SystemExit as error:
        if error.code in _STATUSES:
            _exit_now(error.code)
        raise


def _exit_now(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
