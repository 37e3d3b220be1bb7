"""The ``ray`` executor: actors on a Ray cluster, each with one CPU, a judge and a policy client.

Ray places the actors, restarts those whose process or node died, and adds nodes for actors without a place if its
autoscaler is enabled. ``engine.schedule`` retries units, not Ray, because it counts the worker deaths of each unit.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from typing import Any

from dreamprm_jax.engine.executors.protocol import Event, Work, WorkFactory, describe, do_unit, pack
from dreamprm_jax.schema import DataError

_RESOLVE_SECONDS = 5.0  # wait for the remaining answers of an actor that has died
_UNAVAILABLE_SECONDS = 1.0  # between retries of an actor that Ray cannot reach temporarily


class _Worker:
    """The class of the actors."""

    def __init__(self) -> None:
        self._work: Work | None = None

    def ready(self, path: list[str], folder: str, factory: bytes) -> str | None:
        """Calls the factory, in the driver's working directory if this node has it. Returns the error, or None."""
        sys.path += [entry for entry in path if entry not in sys.path]
        with contextlib.suppress(OSError):
            os.chdir(folder)  # settings may name files relative to it
        try:
            self._work = pickle.loads(factory)()
        except BaseException as error:
            return describe(error)
        return None

    def do(self, key: str, payload: Any) -> tuple[str, Any]:
        """Executes a unit. Returns the kind and the value of its event."""
        assert self._work is not None
        return do_unit(self._work, key, payload)


class RayExecutor:
    """Actors of a Ray cluster. See ``protocol.Executor``."""

    def __init__(self, factory: WorkFactory, workers: int, threads: int, address: str) -> None:
        """Joins a cluster; starts one on this machine if ``address`` is empty and Ray is not initialized.

        Args:
          factory: Called once in each actor; it is pickled.
          workers: Number of actors; 0 for one per CPU that the cluster has now. Set it if the cluster is to grow.
          threads: Number of concurrent units in each actor.
          address: Address as in ``ray.init``.

        Raises:
          DataError: if Ray is not installed, the factory cannot be sent, or the cluster does not respond.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise DataError("engine.executor='ray': Ray is not installed; pip install 'dreamprm-jax[ray]'") from error
        self._ray: Any = ray
        self._factory = pack(factory)
        self._owned = not ray.is_initialized()
        if self._owned:
            settings: dict[str, Any] = {"logging_level": "ERROR"}
            if address:
                settings |= {"address": address}
            else:
                settings |= {"address": "local", "num_cpus": max(workers, len(os.sched_getaffinity(0)))}
                settings |= {"include_dashboard": False}
            on_sigterm = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(**settings)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise DataError(f"engine.address {address!r}: cannot connect to a Ray cluster ({error})") from error
            finally:  # Ray replaces the signal handler
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, on_sigterm)
        self.size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.threads = threads
        self.suspects = threads + 1  # Ray may lose the last answer of a process that dies at its next unit
        # If an actor dies, Ray restarts it and drops its open calls; ``engine.schedule`` retries the units.
        self._actor_class = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, max_concurrency=threads)(
            _Worker
        )
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, str]] = {}  # reference of an answer: worker and unit, "" for ready
        self._retry_at: dict[int, float] = {}  # unreachable worker: time of the next attempt

    def start(self, worker: int) -> None:
        """Requests ``ready`` from the actor, which is created if necessary."""
        if worker not in self._actors:
            self._actors[worker] = self._actor_class.remote()
        ready = self._actors[worker].ready.remote(sys.path, os.getcwd(), self._factory)
        self._pending[ready] = (worker, "")

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Sends a unit to an actor."""
        self._pending[self._actors[worker].do.remote(key, payload)] = (worker, key)

    def wait(self, seconds: float) -> list[Event]:
        """Waits for answers and deaths of the actors."""
        for worker in [w for w, due in self._retry_at.items() if due <= time.monotonic()]:
            del self._retry_at[worker]
            self.start(worker)
        if not self._pending:
            time.sleep(min(seconds, _UNAVAILABLE_SECONDS))
            return []
        if not self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)[0]:
            return []
        events: list[Event] = []
        lost: dict[int, tuple[Exception, bool]] = {}  # error, and whether the worker was still starting
        self._collect(list(self._pending), 0.0, events, lost)
        # The other calls of a dead actor resolve soon; units with an answer are not suspects.
        self._collect([r for r, call in self._pending.items() if call[0] in lost], _RESOLVE_SECONDS, events, lost)
        for worker, (reason, starting) in lost.items():
            events += self._lose(worker, reason, starting)
        return events

    def _collect(
        self, references: list[Any], seconds: float, events: list[Event], lost: dict[int, tuple[Exception, bool]]
    ) -> None:
        """Adds the answers that arrive within ``seconds`` to ``events``, and workers whose call failed to ``lost``."""
        if not references:
            return
        for reference in self._ray.wait(references, num_returns=len(references), timeout=seconds)[0]:
            worker, key = self._pending.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                lost[worker] = (error, not key)
                continue
            if key:
                events.append(Event(worker, answer[0], key, answer[1]))
            elif answer is None:
                events.append(Event(worker, "ready"))
            else:
                events.append(Event(worker, "broken", value=answer))

    def close(self, finished: bool) -> None:
        """Kills the actors, and shuts down the cluster if this executor started it."""
        if not self._ray.is_initialized():
            return
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        if self._owned:
            self._ray.shutdown()

    def _lose(self, worker: int, error: Exception, starting: bool) -> list[Event]:
        """Drops the worker's pending calls, and its actor if Ray does not restart it."""
        self._pending = {reference: call for reference, call in self._pending.items() if call[0] != worker}
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            del self._actors[worker]
        elif starting:  # Ray is about to restart it
            self._retry_at[worker] = time.monotonic() + _UNAVAILABLE_SECONDS
            return []
        return [Event(worker, "died", value=str(error).strip().splitlines()[0])]
