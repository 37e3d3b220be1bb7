"""Training speed: seconds per step, tokens per second, and model FLOP utilization (MFU).

MFU is ``flops.useful_flops`` divided by the dense bfloat16 peak of the data sheet. It is not reported for devices that
are not in ``chips.CHIPS``, such as CPUs.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from dreamprm_jax.training.chips import chip_of


class Throughput:
    """Measures the calls of a compiled step between two readings.

    The first call, which compiles, does not count, nor does other work of the loop (``restart``).
    """

    def __init__(self, devices: list[jax.Device], tokens: int, flops: float):
        """Starts to measure.

        Args:
          devices: devices that the step runs on.
          tokens: tokens per step.
          flops: FLOPs per step, on all devices.
        """
        chip = chip_of(devices[0].device_kind)
        # seconds per step at peak speed
        self._shortest = None if chip is None else flops / (chip.peak_flops * len(devices))
        self._tokens, self._steps, self._since = tokens, 0, 0.0

    def dispatched(self, steps: int, result: Any) -> None:
        """Call it after each call of the step, with its number of optimizer steps and any of its results."""
        if self._since:
            self._steps += steps
        else:
            jax.block_until_ready(result)
            self.restart()

    def restart(self) -> None:
        """Excludes the time since the last reading."""
        self._steps, self._since = 0, time.perf_counter()

    def read(self) -> dict[str, float]:
        """``step_seconds``, ``tokens_per_second`` and ``mfu`` since the last reading; empty if no step was measured.

        Call it when the device has finished.
        """
        if not self._steps:
            return {}
        seconds = (time.perf_counter() - self._since) / self._steps
        self.restart()
        found = {"step_seconds": seconds, "tokens_per_second": self._tokens / seconds}
        if self._shortest is not None:
            found["mfu"] = self._shortest / seconds
        return found


def short(figures: dict[str, float]) -> dict[str, str]:
    """The figures for a progress bar."""
    formats = {
        "step_seconds": ("s/step", "{:.3g}"),
        "tokens_per_second": ("tokens/s", "{:,.0f}"),
        "mfu": ("MFU", "{:.0%}"),
    }
    return {name: text.format(figures[key]) for key, (name, text) in formats.items() if key in figures}
