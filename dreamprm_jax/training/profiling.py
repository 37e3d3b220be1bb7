"""A window of steps recorded by the profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax


class ProfilerWindow:
    """Records the steps in [first, first + count) that run while it is open. A count of 0 disables it."""

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end = folder, first, first + count
        self._running = False

    def before(self, step: int, stride: int = 1) -> None:
        """Starts the recording at the window. Call it before each call of the step, which takes ``stride`` steps."""
        if not self._running and self._first < step + stride and step < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, next_step: int, state: Any) -> None:
        """Stops the recording after the window, once the device has finished ``state``. Call it after each step."""
        if self._running and next_step >= self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Stops and writes the recording, if there is one."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> ProfilerWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
