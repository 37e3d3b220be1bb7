"""The processes of one run, as the host half sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessGroup:
    """Which process this is, and how it waits for the others (``training/distributed.py`` makes one of several).

    Attributes:
      index: Of this process; 0 owns the run's folder.
      barrier: Waits until all processes have called it with the same name.
    """

    index: int = 0
    barrier: Callable[[str], None] = lambda name: None
