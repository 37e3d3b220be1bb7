"""Kernel data about a running child: its memory, its threads, and the time in which it lacked a core."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any

_NANOSECONDS = 1e9


class OpenThread:
    """A thread that reads /proc, started before the worker loses access to it.

    Landlock restricts the thread that calls it and everything that this thread starts. The worker's main thread, which
    forks the children, is restricted once for all of them. The thread of this class is not restricted, and never forks.
    """

    def __init__(self) -> None:
        """Starts the thread. While it waits, it uses no descriptor and holds no lock, so that forks are safe."""
        self._calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, OSError | None]] = SimpleQueue()
        _thread.start_new_thread(self._serve, ())

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Returns the result of the call, or raises its OSError."""
        self._calls.put(call)
        answer, error = self._answers.get()
        if error is not None:
            raise error
        return answer

    def _serve(self) -> None:
        while True:
            try:
                answer, error = self._calls.get()(), None
            except (OSError, KeyError, IndexError) as gone:  # the process ended between two reads
                answer, error = None, gone if isinstance(gone, OSError) else ProcessLookupError()
            self._answers.put((answer, error))


class ChildEnd:
    """A descriptor that is readable when the child has ended: a pidfd, or a pipe if the kernel has none (gVisor)."""

    pipe: tuple[int, int] | None = None  # created once; each SIGCHLD writes to it

    @classmethod
    def prepare(cls) -> None:
        """Finds out which of the two is available. Must be called once, in the worker."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            cls.pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.set_wakeup_fd(cls.pipe[1], warn_on_full_buffer=False)

    @classmethod
    def leave(cls) -> None:
        """In the child: undoes ``prepare``."""
        if cls.pipe is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in cls.pipe:
                os.close(descriptor)

    def __init__(self, pid: int) -> None:
        """Watches a child that has not been waited for."""
        self.pid = pid
        self.started = time.monotonic()
        self.is_pidfd = self.pipe is None
        self.descriptor = os.pidfd_open(pid) if self.pipe is None else self.pipe[0]

    def reached(self) -> bool:
        """Whether the child has ended, after the descriptor became readable. An earlier child may have caused that."""
        if self.is_pidfd:
            return True
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 1 << 12)
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """Stops watching the child."""
        if self.is_pidfd:
            os.close(self.descriptor)


class ChildUsage:
    """Reads /proc for one child. Its process id in /proc is determined once, on first use."""

    def __init__(self, end: ChildEnd, ask: OpenThread) -> None:
        """Watches the process of ``end``."""
        self._ask = ask
        self.end = end
        self._folder = ""
        self._waited = 0.0

    def status(self) -> tuple[int, int]:
        """Returns (resident bytes including swapped memory, number of threads).

        Raises:
          OSError: if /proc cannot be read.
        """
        fields = self._ask(lambda: _fields(f"{self._find()}/status"))
        size = sum(int(fields.get(name, b"0").split()[0]) for name in (b"VmRSS", b"VmSwap"))
        return size << 10, int(fields.get(b"Threads", b"0"))

    def waited(self) -> float:
        """Seconds in which the child's threads were ready to run but had no core; 0 if the kernel does not count them.

        The sum does not include threads that have ended, so the largest sum so far is returned.
        """
        with contextlib.suppress(OSError):
            self._waited = max(self._waited, self._ask(self._sum_waited))
        return self._waited

    def _sum_waited(self) -> float:
        tasks = f"{self._find()}/task"
        return sum(int(_read(f"{tasks}/{thread}/schedstat").split()[1]) for thread in os.listdir(tasks)) / _NANOSECONDS

    def _find(self) -> str:
        """The child's folder in /proc. This /proc may belong to an outer namespace, where the child has another id."""
        if not self._folder:
            pid = self.end.pid
            if self.end.is_pidfd:
                pid = int(_fields(f"/proc/self/fdinfo/{self.end.descriptor}")[b"Pid"])
            self._folder = f"/proc/{pid}"
        return self._folder


def resident_bytes() -> int:
    """This process's resident memory.

    Raises:
      OSError: if /proc cannot be read.
    """
    return int(_fields("/proc/self/status")[b"VmRSS"].split()[0]) << 10


def _fields(path: str) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in _read(path).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as handle:
        return handle.read()
