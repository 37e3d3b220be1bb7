"""The ``ray`` executor: actors on a Ray cluster, each with one CPU, a judge and a policy client.

Ray places the actors, starts those again whose process or node died, and adds nodes for those that find no place where
its autoscaler is on. Units are given again by ``engine.schedule``, not by Ray: it counts the deaths around each.
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

_RESOLVE_SECONDS = 5.0  # for the answers of an actor that has died
_UNAVAILABLE_SECONDS = 1.0  # between questions to an actor that Ray cannot reach at the moment


class _Worker:
    """What runs in an actor."""

    def __init__(self) -> None:
        self._work: Work | None = None

    def ready(self, path: list[str], folder: str, factory: bytes) -> str | None:
        """Calls the factory, in the driver's folder where this node has it. Returns why it failed, or None."""
        sys.path += [entry for entry in path if entry not in sys.path]
        with contextlib.suppress(OSError):
            os.chdir(folder)  # settings may name files relative to it
        try:
            self._work = pickle.loads(factory)()
        except BaseException as error:
            return describe(error)
        return None

    def do(self, key: str, payload: Any) -> tuple[str, Any]:
        """Does a unit: the kind and the value of the event to tell."""
        assert self._work is not None
        return do_unit(self._work, key, payload)


class RayExecutor:
    """Actors of a Ray cluster. See ``protocol.Executor``."""

    def __init__(self, factory: WorkFactory, workers: int, threads: int, address: str) -> None:
        """Joins a cluster, or starts one on this machine where ``address`` is empty and none was joined.

        Args:
          factory: called once in each actor; it is pickled.
          workers: actors; 0 for one a CPU that the cluster has now (name a number where it is to grow).
          threads: units at a time in each.
          address: as of ``ray.init``.

        Raises:
          DataError: when the factory cannot be sent, or the cluster does not answer.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

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
                raise DataError(f"engine.address {address!r}: no Ray cluster there ({error})") from error
            finally:  # Ray takes the signal for itself
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, on_sigterm)
        self.size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.threads = threads
        self.suspects = threads + 1  # Ray may lose the last answer of a process that dies at its next unit
        # Killed with all its tasks' answers lost, an actor is started again by Ray, its units are given again by us.
        self._actor_class = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, max_concurrency=threads)(
            _Worker
        )
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, str]] = {}  # answer that is awaited: worker and unit, "" for ready
        self._asked_again: dict[int, float] = {}  # worker that was not reachable: when it is asked again

    def start(self, worker: int) -> None:
        """Asks the actor to make itself ready; Ray starts it first if it must."""
        if worker not in self._actors:
            self._actors[worker] = self._actor_class.remote()
        ready = self._actors[worker].ready.remote(sys.path, os.getcwd(), self._factory)
        self._pending[ready] = (worker, "")

    def send(self, worker: int, key: str, payload: Any) -> None:
        """Gives a unit to an actor."""
        self._pending[self._actors[worker].do.remote(key, payload)] = (worker, key)

    def wait(self, seconds: float) -> list[Event]:
        """What the actors have answered since, and which died."""
        for worker in [w for w, when in self._asked_again.items() if when <= time.monotonic()]:
            del self._asked_again[worker]
            self.start(worker)
        if not self._pending:
            time.sleep(min(seconds, _UNAVAILABLE_SECONDS))
            return []
        if not self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)[0]:
            return []
        events: list[Event] = []
        lost: dict[int, tuple[Exception, bool]] = {}  # why, and whether it was only making itself ready
        self._collect(list(self._pending), 0.0, events, lost)
        # What a dead actor was asked for ends within a moment too; some of it in time, which clears it of suspicion.
        self._collect([r for r, asked in self._pending.items() if asked[0] in lost], _RESOLVE_SECONDS, events, lost)
        for worker, (reason, starting) in lost.items():
            events += self._lose(worker, reason, starting)
        return events

    def _collect(
        self, references: list[Any], seconds: float, events: list[Event], lost: dict[int, tuple[Exception, bool]]
    ) -> None:
        """Sorts the answers that are there, or come in time, into events and lost workers."""
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
        """Ends the actors, and the cluster if it was started here."""
        if not self._ray.is_initialized():
            return
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        if self._owned:
            self._ray.shutdown()

    def _lose(self, worker: int, error: Exception, starting: bool) -> list[Event]:
        """Forgets what the worker was asked for. Its actor, if gone for good, will be a new one."""
        self._pending = {reference: asked for reference, asked in self._pending.items() if asked[0] != worker}
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            del self._actors[worker]
        elif starting:  # Ray is about to start it again
            self._asked_again[worker] = time.monotonic() + _UNAVAILABLE_SECONDS
            return []
        return [Event(worker, "died", value=str(error).strip().splitlines()[0])]
