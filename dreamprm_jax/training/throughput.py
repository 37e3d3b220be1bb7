"""Speed of training: seconds a step, tokens a second, and the share of the chips' peak (MFU).

MFU is ``flops.useful_flops`` over the data sheets' dense bfloat16 peak. It is absent on devices that are not in
``chips.CHIPS``, such as CPUs.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from dreamprm_jax.training.chips import chip_of


class Throughput:
    """Measures the calls of a compiled step between two readings.

    The first call, which compiles, does not count, nor does what the loop does besides (``restart``).
    """

    def __init__(self, devices: list[jax.Device], tokens: int, flops: float):
        """Starts to measure.

        Args:
          devices: that the step runs on.
          tokens: of one step.
          flops: of one step on all devices.
        """
        chip = chip_of(devices[0].device_kind)
        # seconds of a step at the peak
        self._shortest = None if chip is None else flops / (chip.peak_flops * len(devices))
        self._tokens, self._steps, self._since = tokens, 0, 0.0

    def dispatched(self, steps: int, result: Any) -> None:
        """To be called after each call of the step, with its number of optimizer steps and any of its results."""
        if self._since:
            self._steps += steps
        else:
            jax.block_until_ready(result)
            self.restart()

    def restart(self) -> None:
        """Leaves out the time until now."""
        self._steps, self._since = 0, time.perf_counter()

    def read(self) -> dict[str, float]:
        """``step_seconds``, ``tokens_per_second`` and ``mfu`` since the last reading; to be called when the device has
        finished. Empty where there was no step to measure."""
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
