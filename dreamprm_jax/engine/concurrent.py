"""Calls a function on many items in threads, for work that waits for others, such as requests to a server."""

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
    ahead: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, function(item)).

    The threads are daemons: when the caller stops early, or the process is told to end, nothing waits for calls that
    are still running.

    Args:
      function: called in one of ``threads`` threads; its exception is raised here.
      items: consumed lazily, never more than ``ahead`` beyond the results that were taken (backpressure).
      threads: how many calls run at once.
      in_order: whether results come in the order of the items, or else as they arrive.
      ahead: items begun or waiting at a time; four times ``threads`` by default.
    """
    limit, remaining = ahead or 4 * threads, enumerate(items)
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

    started = 0
    arrived: dict[int, tuple[Item, Result]] = {}
    given = submitted = 0
    exhausted = False
    try:
        while True:
            while not exhausted and submitted - given < limit:
                task = next(remaining, None)
                if task is None:
                    exhausted = True
                    break
                if started < threads:
                    threading.Thread(target=work, daemon=True).start()
                    started += 1
                tasks.put(task)
                submitted += 1
            if given == submitted:
                return
            index, item, result, error = results.get()
            if error is not None:
                raise error
            if not in_order:
                given += 1
                yield item, result
                continue
            arrived[index] = (item, result)
            while given in arrived:
                yield arrived.pop(given)
                given += 1
    finally:
        stopped.set()
        for _ in range(started):
            tasks.put(None)
