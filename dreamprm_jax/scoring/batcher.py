"""Dynamic batching: requests that arrive while the devices are busy are scored together in the next batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from dreamprm_jax.scoring.scorer import Reading, Scorer


class Busy(Exception):
    """Raised when the queue is full or the server is shutting down."""


@dataclass(frozen=True)
class _Request:
    readings: list[Reading]
    tokens: int
    answer: Future[list[np.ndarray]] = field(default_factory=Future)


class Batcher:
    """A request queue and the only thread that uses the scorer.

    As a context manager it answers the queued requests on exit.
    """

    def __init__(self, scorer: Scorer, queue_tokens: int, batch_requests: int = 256):
        """Starts the thread.

        Args:
          scorer: the scorer; only this thread uses it.
          queue_tokens: maximum number of tokens in the queue. An empty queue accepts one request of any size.
          batch_requests: maximum number of requests that are scored together.
        """
        self.batches = 0  # number of batches scored so far
        self._scorer = scorer
        self._requests = batch_requests
        self._limit = queue_tokens
        self._waiting: deque[_Request] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="scorer")
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Number of tokens in the queue, excluding those being scored."""
        with self._change:
            return sum(request.tokens for request in self._waiting)

    def submit(self, readings: Sequence[Reading]) -> Future[list[np.ndarray]]:
        """Queues one request. The future returns the result of ``Scorer.logits``.

        Raises:
          Busy: if the queue is full or the server is shutting down.
        """
        request = _Request(list(readings), sum(len(reading.tokens) for reading in readings))
        with self._change:
            if self._closing:
                raise Busy("the server is shutting down")
            waiting = sum(other.tokens for other in self._waiting)
            if self._waiting and waiting + request.tokens > self._limit:
                raise Busy(f"{waiting} tokens are waiting already; the queue holds {self._limit}")
            self._waiting.append(request)
            self._change.notify()
        return request.answer

    def _run(self) -> None:
        while batch := self._next():
            batch = [request for request in batch if request.answer.set_running_or_notify_cancel()]
            try:
                results = self._scorer.logits([reading for request in batch for reading in request.readings])
            except Exception as error:  # such as out of memory: the requests fail, the server runs on
                for request in batch:
                    request.answer.set_exception(error)
                continue
            self.batches += 1
            start = 0
            for request in batch:
                request.answer.set_result(results[start : start + len(request.readings)])
                start += len(request.readings)

    def _next(self) -> list[_Request]:
        """Waits for requests and returns those of the next batch. On shutdown, returns an empty list at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closing)
            batch: list[_Request] = []
            tokens = 0
            while (
                self._waiting
                and len(batch) < self._requests
                and (not batch or tokens + self._waiting[0].tokens <= self._scorer.batch_tokens)
            ):
                batch.append(self._waiting.popleft())
                tokens += batch[-1].tokens
            return batch

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()
