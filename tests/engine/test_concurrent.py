"""Threads ahead of an ordered consumer: order, overlap, backpressure, errors in their turn, early leave."""

import threading
import time

import pytest

from dreamprm_jax.engine.concurrent import concurrent_map


def test_results_keep_the_order_of_the_items():
    delays = [0.02, 0.0, 0.01, 0.0, 0.03, 0.0]
    got = list(concurrent_map(lambda i: (time.sleep(delays[i]), i * i)[1], range(6), threads=3))
    assert got == [(i, i * i) for i in range(6)]
    assert list(concurrent_map(lambda i: i, [], threads=2)) == []


def test_calls_run_at_once():
    barrier = threading.Barrier(3, timeout=5)  # passes only if three calls wait together
    assert [r for _, r in concurrent_map(lambda i: barrier.wait() >= 0, range(6), threads=3)] == [True] * 6


@pytest.mark.parametrize(("threads", "ahead", "bound"), [(2, None, 8), (2, 3, 3), (1, 1, 1)])
def test_items_are_taken_a_bounded_number_ahead(threads, ahead, bound):
    taken = 0

    def items():
        nonlocal taken
        for i in range(50):
            taken += 1
            yield i

    for used, (item, _) in enumerate(concurrent_map(lambda i: i, items(), threads, ahead=ahead)):
        assert item == used
        assert taken <= used + bound
    assert taken == 50


def test_an_error_is_raised_in_its_turn():
    results = concurrent_map(lambda i: 1 // (i - 2), range(10), threads=4)
    assert [next(results), next(results)] == [(0, -1), (1, -1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_leaving_early_cancels_what_has_not_begun():
    begun = []

    def call(i):
        begun.append(i)
        time.sleep(0.01)
        return i

    results = concurrent_map(call, range(1000), threads=1, ahead=100)
    next(results)
    results.close()
    count = len(begun)
    assert count < 100
    time.sleep(0.05)
    assert len(begun) == count
