"""Several processes that train one model: how they find each other, synchronize, and stop together.

All processes share the run's folder. Only process 0 writes metrics, JSON and Parquet files; all processes write
checkpoints. SIGTERM (preemption) or Ctrl-C on any process sets a flag that the next step passes to all processes, so
that all stop after the same step (``training/loop.py``).
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from dreamprm_jax.config import DistributedConfig
from dreamprm_jax.runs.process_group import ProcessGroup, check_processes
from dreamprm_jax.runs.stop_signals import StopRequest, stop_is_requested
from dreamprm_jax.schema import DataError

FAREWELL_SECONDS = 3.0


def initialize(config: DistributedConfig) -> None:
    """Connects to the other processes. Call it before any jax computation; later calls have no effect.

    If not all processes connect within five minutes, jax ends the process.

    Raises:
      DataError: if settings are missing or wrong, or jax does not find the cluster.
    """
    if config.mode == "off" or jax.distributed.is_initialized():
        return
    check_processes(config)
    arguments: dict[str, Any] = {}
    if config.mode == "explicit":
        arguments = {
            "coordinator_address": config.coordinator_address,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
        }
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    # This module handles preemption; jax's own service would take over SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"config.distributed.mode={config.mode!r}: {error}") from error
    signal.signal(signal.SIGTERM, handler)


def is_main() -> bool:
    """Whether this is process 0, which writes all files that are not written by every process."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached this barrier."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def main_first(name: str, work: Callable[[], Any]) -> Any:
    """Runs ``work()`` on process 0 and then on the others, which can read what process 0 has written."""
    if is_main():
        result = work()
        barrier(name)
        return result
    barrier(name)
    return work()


def to_host(tree: Any) -> Any:
    """Global arrays as complete numpy arrays on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def keep_stop_signals() -> StopRequest:
    """Holds stop signals until all processes have agreed to stop. While XLA compiles, a signal ends the process."""
    return StopRequest("stopping after this step; a second signal stops at once", by_itself=False)


def stop_if_any_was_asked() -> None:
    """Ends every process with status 143 if any has received a stop signal. All processes must call it.

    Raises:
      SystemExit: if a process has received a stop signal.
    """
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.asarray(stop_is_requested())).any():
        raise SystemExit(143)


@contextmanager
def process_group(config: DistributedConfig, stops_in_sync: bool) -> Iterator[ProcessGroup]:
    """The processes of the run as a group, for one stage.

    An error in one process ends that process here. Otherwise the others would wait for it at a barrier; once it has
    ended, the coordinator ends them too.

    Args:
      config: How the processes find each other.
      stops_in_sync: Whether all processes stop together. A stop signal is then held until they agree to stop: at a step
        of the loop, or at one of the group's barriers.
    """
    initialize(config)

    def stoppable_barrier(name: str) -> None:
        barrier(name)
        stop_if_any_was_asked()

    try:
        with keep_stop_signals() if stops_in_sync else nullcontext():
            yield ProcessGroup(jax.process_index(), stoppable_barrier)
    except BaseException as error:
        if jax.process_count() == 1 or (stops_in_sync and isinstance(error, SystemExit)):
            raise
        place = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, SystemExit):
            _leave(error.code if isinstance(error.code, int) else 1)
        if isinstance(error, DataError):
            print(f"dreamprm, {place}: error: {error}", file=sys.stderr)
            _leave(2)
        traceback.print_exc()
        print(f"dreamprm, {place}: stopped; the other processes are ended too", file=sys.stderr)
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends the process without the shutdown of jax.distributed, which waits for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_main():
        time.sleep(FAREWELL_SECONDS)  # without the coordinator the others are aborted: let them report their errors
    os._exit(status)
