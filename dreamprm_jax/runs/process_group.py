"""The processes that work on one run, without jax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank, and a barrier. ``training/distributed.py`` creates the group of a multi-process run.

    Attributes:
      index: Rank of this process. Process 0 owns the run's folder.
      barrier: Waits until all processes have called it with the same name.
    """

    index: int = 0
    barrier: Callable[[str], None] = lambda name: None
