"""Maps a function over items in threads, for I/O-bound work such as requests to a server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def concurrent_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    in_order: bool = True,
    max_pending: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, function(item)).

    The threads are daemons: if the caller stops early or the process exits, nothing waits for running calls.

    Args:
      function: Called in one of ``threads`` threads; its exception is raised here.
      items: Read lazily, at most ``max_pending`` items ahead of the consumed results (backpressure).
      threads: Maximum number of concurrent calls.
      in_order: Whether results are yielded in the order of the items; if false, in order of completion.
      max_pending: Maximum number of items that are queued, running or not yet yielded; by default ``4 * threads``.
    """
    limit, remaining = max_pending or 4 * threads, enumerate(items)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while (task := tasks.get()) is not None and not stopped.is_set():
            index, item = task
            try:
                results.put((index, item, function(item), None))
            except BaseException as error:
                results.put((index, item, None, error))

    started = submitted = yielded = 0
    completed: dict[int, tuple[Item, Result]] = {}
    exhausted = False
    try:
        while True:
            while not exhausted and submitted - yielded < limit:
                task = next(remaining, None)
                if task is None:
                    exhausted = True
                    break
                if started < threads:
                    threading.Thread(target=work, daemon=True).start()
                    started += 1
                tasks.put(task)
                submitted += 1
            if yielded == submitted:
                return
            index, item, result, error = results.get()
            if error is not None:
                raise error
            if not in_order:
                yielded += 1
                yield item, result
                continue
            completed[index] = (item, result)
            while yielded in completed:
                yield completed.pop(yielded)
                yielded += 1
    finally:
        stopped.set()
        for _ in range(started):
            tasks.put(None)
