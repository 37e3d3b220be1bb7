"""Ctrl-C and SIGTERM end a command within seconds, whatever it is in the middle of.

A handler of Python runs between two bytecodes of the main thread, and raises there. That is too late while XLA
compiles, and in vain where a callback discards exceptions. So a thread watches the signals too, and ends the process if
it still runs ``GRACE_SECONDS`` later. Nothing is lost by that: every file of a run is whole at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 4.0
_MESSAGE = "\nstopped; run the same command again to continue"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STATUSES = tuple(128 + number for number in STOP_SIGNALS)
_orderly = 0  # blocks of ``stops_by_itself`` that the process is in


@contextmanager
def stops_by_itself() -> Iterator[None]:
    """Within it the first signal is left to the handler that is set there, for as long as that handler takes."""
    global _orderly
    _orderly += 1
    try:
        yield
    finally:
        _orderly -= 1


def run_until_stopped(command: Callable[[], int]) -> NoReturn:
    """Runs a command as the whole process, and ends with its status: 130 after Ctrl-C, 143 after SIGTERM.

    After a signal the interpreter is not taken down in order, because threads of XLA may still run.
    """
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1)[0]:
            if number in STOP_SIGNALS:
                if not _orderly or received:
                    timer = threading.Timer(GRACE_SECONDS, end_now, (number,))
                    timer.daemon = True
                    timer.start()
                received.append(number)

    def end_now(number: int) -> NoReturn:
        if signal.getsignal(number) is not ended:  # the handler has not run
            print(_MESSAGE, file=sys.stderr, flush=True)
        _leave(128 + number)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for each in STOP_SIGNALS:
            signal.signal(each, ended)
        print(_MESSAGE, file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    def ended(number: int, frame: FrameType | None) -> NoReturn:
        _leave(128 + number)

    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are its own
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    threading.Thread(target=watch, name="stop signals", daemon=True).start()
    try:
        sys.exit(command())
    except SystemExit as error:
        if error.code in _STATUSES:
            _leave(error.code)
        raise


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
