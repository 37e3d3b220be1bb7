"""Schedules that select which points (theta_k, s_k) to store so that all steps can be visited in reverse order.

This is binomial checkpointing: with c stored points, a trajectory of C(c + r + 1, r) steps can be reversed without
running any step more than r times before its adjoint. Sources: Griewank 1992, doi 10.1080/10556789208805505; Revolve,
doi 10.1145/347837.347846.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

START = NOWHERE = -1


class Sweep(NamedTuple):
    """Read a point, run the steps from it to the last one, and pull the adjoint back through the last step."""

    read: int  # the slot of the point before step ``first``, or START
    first: int
    writes: tuple[int, ...]  # for each step from ``first`` on: the slot for the point before it, or NOWHERE


class Schedule(NamedTuple):
    """The order in which to visit the steps of a trajectory in reverse."""

    writes: tuple[int, ...]  # [K], the slots that the forward pass writes
    sweeps: tuple[Sweep, ...]  # [K]; their last steps are K - 1, ..., 0
    slots: int

    @property
    def steps(self) -> int:
        """Total number of steps run, in the forward pass and in all sweeps."""
        return len(self.writes) + sum(len(sweep.writes) for sweep in self.sweeps)


@functools.lru_cache(maxsize=64)
def schedule(steps: int, slots: int) -> Schedule:
    """The schedule with the fewest steps.

    Args:
      steps: K, the number of steps of the trajectory.
      slots: how many points may be stored at the same time besides the start; at least 0.
    """
    slots = min(slots, steps - 1)
    split = _splits(steps + 1, slots)
    sweeps: list[Sweep] = []

    def visit(first: int, last: int, slot: int, free: tuple[int, ...], sweep: Sweep | None) -> None:
        """Visits steps last - 1, ..., first, starting at the point in ``slot`` or at the current end of ``sweep``."""
        while last > first:
            stores = bool(free) and last - first > 1
            middle = first + int(split[len(free), last - first]) if stores else last - 1
            writes = [NOWHERE if sweep is None else slot] + [NOWHERE] * (middle - first)
            sweep = sweep or Sweep(slot, first, ())
            sweep = sweep._replace(writes=(*sweep.writes, *writes[: middle - first + (not stores)]))
            if stores:
                visit(middle, last, free[0], free[1:], sweep)
            else:
                sweeps.append(sweep)
            last, sweep = middle, None

    # The outer gradient is treated as an additional step K, whose sweep is the forward pass.
    visit(0, steps + 1, START, tuple(range(slots)), None)
    return Schedule(sweeps[0].writes[:steps], tuple(sweeps[1:]), slots)


def default_slots(steps: int) -> int:
    """The smallest number of points with which at most 3 K steps are run; it grows as sqrt(K)."""
    return next(slots for slots in range(steps) if schedule(steps, slots).steps <= 3 * steps)


def _splits(steps: int, slots: int) -> np.ndarray:
    """[slots + 1, steps + 1]: where to store the next point in a range of n steps if c slots are free."""
    lengths = np.arange(steps + 1)
    cost = lengths * (lengths - 1) // 2
    split = np.ones((slots + 1, steps + 1), np.int64)
    for free in range(1, slots + 1):
        fewer, cost = cost, np.zeros_like(cost)
        for length in range(2, steps + 1):
            total = lengths[1:length] + fewer[length - 1 : 0 : -1] + cost[1:length]
            split[free, length] = 1 + int(np.argmin(total))
            cost[length] = total.min()
    return split
