"""The ``local`` executor: worker processes on this machine.

Each worker is a new interpreter with one socket to the driver. Workers share no lock and no queue, so a killed worker
loses only its own units. The pools of ``concurrent.futures`` and ``loky`` fail as a whole if one worker dies
(benchmarks/engine.py --kills). Workers are not forked from the driver, which may have loaded jax and started threads.
They do not run the driver's main module again.
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
_MAX_MESSAGES = 256  # messages read from one worker before the others are served
# Parallelism comes from the number of workers, so each worker's numerical libraries use one thread.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass
class _Process:
    """A running worker."""

    popen: subprocess.Popen[bytes]
    connection: Connection


class LocalExecutor:
    """Processes on this machine. See ``protocol.Executor``."""

    def __init__(self, factory: WorkFactory, workers: int, threads: int) -> None:
        """Stores the settings. No worker is started yet.

        Args:
          factory: Called once in each worker; it is pickled.
          workers: Number of processes; 0 for one per core.
          threads: Number of concurrent units in each worker.

        Raises:
          DataError: if the factory cannot be pickled.
        """
        self.size = workers or len(os.sched_getaffinity(0))
        self.threads = self.suspects = threads  # an answer arrives even if the worker dies after sending it
        self._factory = pack(factory)
        self._processes: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()

    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [process.popen.pid for process in self._processes.values()]

    def start(self, worker: int) -> None:
        """Starts the worker's process; a ``ready`` event follows."""
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
        with contextlib.suppress(OSError):  # the process has already died, which ``wait`` reports
            connection.send_bytes(pickle.dumps((sys.path, self._factory, self.threads)))

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Sends a unit to a worker."""
        with contextlib.suppress(OSError):  # the worker has died, which ``wait`` reports
            self._processes[worker].connection.send_bytes(pickle.dumps((key, payload)))

    def wait(self, seconds: float) -> list[Event]:
        """Waits for events of the workers, including deaths."""
        events: list[Event] = []
        for selected, _ in self._selector.select(seconds):
            worker: int = selected.data
            connection = self._processes[worker].connection
            try:
                for _ in range(_MAX_MESSAGES):
                    events.append(Event(worker, *pickle.loads(connection.recv_bytes())))
                    if not connection.poll():
                        break
            except (EOFError, OSError):
                events.append(Event(worker, "died", value=self._reap(worker)))
        return events

    def close(self, finished: bool) -> None:
        """Stops all workers and waits for their exit."""
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
            self._reap(worker)
        self._selector.close()

    def _reap(self, worker: int) -> str:
        """Kills the process if necessary, and returns its exit status or signal as text."""
        process = self._processes.pop(worker)
        self._selector.unregister(process.connection)
        process.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(0.5)  # a process that has closed its socket exits soon
        process.popen.kill()
        code = process.popen.wait()
        return f"signal {-code}" if code < 0 else f"exit status {code}"
