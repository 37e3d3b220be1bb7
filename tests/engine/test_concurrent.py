"""``concurrent_map``: order, overlap, backpressure, order of errors, early exit."""

import threading
import time

import pytest

from dreamprm_jax.engine.concurrent import concurrent_map


def test_results_keep_the_order_of_the_items():
    delays = [0.02, 0.0, 0.01, 0.0, 0.03, 0.0]
    got = list(concurrent_map(lambda i: (time.sleep(delays[i]), i * i)[1], range(6), threads=3))
    assert got == [(i, i * i) for i in range(6)]
    assert list(concurrent_map(lambda i: i, [], threads=2)) == []


def test_calls_run_concurrently():
    barrier = threading.Barrier(3, timeout=5)  # passes only if three calls run at the same time
    assert [r for _, r in concurrent_map(lambda i: barrier.wait() >= 0, range(6), threads=3)] == [True] * 6


@pytest.mark.parametrize(("threads", "max_pending", "bound"), [(2, None, 8), (2, 3, 3), (1, 1, 1)])
def test_a_bounded_number_of_items_is_pending(threads, max_pending, bound):
    taken = 0

    def items():
        nonlocal taken
        for i in range(50):
            taken += 1
            yield i

    for used, (item, _) in enumerate(concurrent_map(lambda i: i, items(), threads, max_pending=max_pending)):
        assert item == used
        assert taken <= used + bound
    assert taken == 50


def test_an_error_is_raised_in_order():
    results = concurrent_map(lambda i: 1 // (i - 2), range(10), threads=4)
    assert [next(results), next(results)] == [(0, -1), (1, -1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_early_exit_cancels_queued_items():
    started = []

    def call(i):
        started.append(i)
        time.sleep(0.01)
        return i

    results = concurrent_map(call, range(1000), threads=1, max_pending=100)
    next(results)
    results.close()
    count = len(started)
    assert count < 100
    time.sleep(0.05)
    assert len(started) == count
