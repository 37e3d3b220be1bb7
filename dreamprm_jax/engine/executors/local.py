"""The ``local`` executor: worker processes on this machine.

Each worker is a fresh interpreter with one socket to the driver. Nothing is shared among workers, no lock and no queue,
so that a worker that is killed, at whatever moment, takes nothing along but the units that it had; the pools of
``concurrent.futures`` and ``loky`` end as a whole with one of their workers (benchmarks/engine.py --kills). Nothing is
forked from the driver, which may hold jax and threads, and the driver's main module is not run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from dreamprm_jax.engine.executors.protocol import Event, WorkFactory, pack

_BOOTSTRAP = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(2)); from {module} import main; main()".format(
    module="dreamprm_jax.engine.executors.worker"
)
_CLOSE_SECONDS = 5.0
_READ_AT_ONCE = 256  # messages of one worker, before the others have their turn
# The parallelism is that of the workers.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass
class _Process:
    """A running worker."""

    popen: subprocess.Popen[bytes]
    connection: Connection


class LocalExecutor:
    """Processes on this machine. See ``protocol.Executor``."""

    def __init__(self, factory: WorkFactory, workers: int, threads: int) -> None:
        """Starts nothing yet.

        Args:
          factory: called once in each worker; it is pickled.
          workers: processes; 0 for one a core.
          threads: units at a time in each.

        Raises:
          DataError: when the factory cannot be sent.
        """
        self.size = workers or len(os.sched_getaffinity(0))
        self.threads = self.suspects = threads  # an answer that was sent arrives, whatever comes after it
        self._factory = pack(factory)
        self._processes: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [process.popen.pid for process in self._processes.values()]

    def start(self, worker: int) -> None:
        """Starts the worker's process; it says ``ready`` later."""
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                env={**_ONE_THREAD, **os.environ},
                pass_fds=[theirs.fileno()],
            )
        connection = Connection(ours.detach())
        self._processes[worker] = _Process(popen, connection)
        self._selector.register(connection, selectors.EVENT_READ, worker)
        with contextlib.suppress(OSError):  # it has died at once: ``wait`` tells
            connection.send_bytes(pickle.dumps((sys.path, self._factory, self.threads)))

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Gives a unit to a worker."""
        with contextlib.suppress(OSError):  # it has died: ``wait`` tells
            self._processes[worker].connection.send_bytes(pickle.dumps((key, payload)))

    def wait(self, seconds: float) -> list[Event]:
        """What the workers have said since, deaths included."""
        events: list[Event] = []
        for selected, _ in self._selector.select(seconds):
            worker: int = selected.data
            connection = self._processes[worker].connection
            try:
                for _ in range(_READ_AT_ONCE):
                    events.append(Event(worker, *pickle.loads(connection.recv_bytes())))
                    if not connection.poll():
                        break
            except (EOFError, OSError):
                events.append(Event(worker, "died", value=self._bury(worker)))
        return events

    def close(self, finished: bool) -> None:
        """Ends all workers and waits until they are gone."""
        processes = list(self._processes.values())
        if finished:
            for process in processes:
                with contextlib.suppress(OSError):
                    process.connection.send_bytes(b"")
            deadline = time.monotonic() + _CLOSE_SECONDS
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(max(0.0, deadline - time.monotonic()))
        for worker in list(self._processes):
            self._bury(worker)
        self._selector.close()

    def _bury(self, worker: int) -> str:
        """Makes sure that the process is gone; how it ended."""
        process = self._processes.pop(worker)
        self._selector.unregister(process.connection)
        process.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(0.5)  # of a process that has closed its socket, the end is near
        process.popen.kill()
        code = process.popen.wait()
        return f"signal {-code}" if code < 0 else f"exit status {code}"
