"""A window of steps recorded by the profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax


class ProfilerWindow:
    """Records the steps of [first, first + count) that are run while it is open. Off with a count of 0."""

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end = folder, first, first + count
        self._running = False

    def before(self, step: int, stride: int = 1) -> None:
        """To be called before each step, or ``stride`` of them at once: starts with the first one in the window."""
        if not self._running and self._first < step + stride and step < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, next_step: int, state: Any) -> None:
        """To be called after each step: stops where the window ends, once the device has finished ``state``."""
        if self._running and next_step >= self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes what is recorded, if anything is."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> ProfilerWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
