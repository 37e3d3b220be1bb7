"""A local worker: a new interpreter that executes units until the driver closes its socket."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

from dreamprm_jax.engine.executors.protocol import Work, describe, do_unit


def main() -> None:
    """Serves the driver on the file descriptor given on the command line."""
    # Both signals reach the whole process group; the driver decides when its workers stop. Handlers instead of
    # SIG_IGN, because child processes do not inherit them.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("500")  # if memory runs out, the kernel kills a worker and not the driver
    connection = Connection(int(sys.argv[1]))
    try:
        with contextlib.suppress(EOFError, OSError):  # the driver has exited
            _serve(connection)
    finally:
        os._exit(0)  # does not wait for units that are still running


def _serve(connection: Connection) -> None:
    path, factory_bytes, threads = pickle.loads(connection.recv_bytes())
    sys.path[:] = path
    try:
        work: Work = pickle.loads(factory_bytes)()
    except BaseException as error:
        connection.send_bytes(pickle.dumps(("broken", "", describe(error))))
        return
    units: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    writing = threading.Lock()
    connection.send_bytes(pickle.dumps(("ready", "", None)))
    for _ in range(threads):
        threading.Thread(target=_do_units, args=(connection, writing, units, work), daemon=True).start()
    try:
        while message := connection.recv_bytes():
            units.put(message)
    except EOFError:
        return
    work.close()  # an empty message was received: all units are finished


def _do_units(connection: Connection, writing: threading.Lock, units: queue.SimpleQueue[bytes], work: Work) -> None:
    while True:
        key, payload = pickle.loads(units.get())
        kind, value = do_unit(work, key, payload)
        try:
            data = pickle.dumps((kind, key, value))
        except Exception as error:
            data = pickle.dumps(("failed", key, describe(error)))
        try:
            with writing:
                connection.send_bytes(data)
        except OSError:
            os._exit(0)  # the driver has exited
