"""Runs a function over items in threads and hands the results back in the items' order, a bounded number ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, function(item)) in order.

    Args:
      function: called in one of ``threads`` threads; its exception is raised here when its turn comes.
      items: consumed lazily, never more than ``ahead`` beyond the last result taken (backpressure).
      threads: how many calls run at once.
      ahead: results kept waiting; four times ``threads`` by default.
    """
    limit = ahead or 4 * threads
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) >= limit:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
