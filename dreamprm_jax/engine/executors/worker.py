"""A local worker: a fresh interpreter that does units until its pipe to the driver ends."""

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
    """Serves the driver on the file descriptor that the command line names."""
    # Both reach a whole process group at once; the driver decides when its workers end. Handlers, not SIG_IGN: what
    # the worker starts gets the default back.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("500")  # short of memory, the kernel ends a worker, not the driver
    connection = Connection(int(sys.argv[1]))
    try:
        with contextlib.suppress(EOFError, OSError):  # the driver has ended
            _serve(connection)
    finally:
        os._exit(0)  # with threads in the middle of their units, if the driver will not have them


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
    work.close()  # an empty message: everything is done


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
            os._exit(0)  # the driver has ended
