"""The guard against values that are not finite: every step is checked, the device never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from dreamprm_jax.schema import DataError
from dreamprm_jax.training.feed import Batch
from dreamprm_jax.training.steps import Metrics, StepResult


def all_finite(result: StepResult) -> Bool[Array, ""]:
    """Whether losses and norms, the new parameters and phi are finite; to be compiled into the step.

    The norms stand for the optimizers' moments: a square that overflows makes its norm infinite too.
    """
    leaves = jax.tree.leaves((result.metrics, result.state.params, result.state.phi))
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack(flags))


class _Pending(NamedTuple):
    step: int
    finite: Bool[Array, ""]
    metrics: Metrics


class FiniteGuard:
    """Reads the flag of a step when the next one has been dispatched: the device then has work to do meanwhile."""

    def __init__(self, folder: Path, batches_of: Callable[[int], dict[str, Batch]], writes: bool = True):
        """Args: where to keep a bad batch; the batches of a step, by name; whether this process writes files."""
        self._folder, self._batches_of, self._writes = folder, batches_of, writes
        self._pending: _Pending | None = None

    def watch(self, step: int, finite: Bool[Array, ""], metrics: Metrics) -> None:
        """Takes over the flag of the step just dispatched, and checks that of the one before.

        Raises:
          DataError: naming the first step whose values are not finite, and the file that holds its batches.
        """
        self.settle()
        self._pending = _Pending(step, finite, metrics)

    def settle(self) -> None:
        """Checks the last step; to be called before anything is written. Raises as ``watch`` does."""
        if self._pending is None:
            return
        step, finite, metrics = self._pending
        self._pending = None
        if not bool(finite):
            self._stop(step, metrics)

    def _stop(self, step: int, metrics: Metrics) -> None:
        path = self._folder / f"not_finite_{step}.npz"
        if self._writes:
            arrays: dict[str, Any] = {
                f"{prefix}{name}": np.asarray(leaf)
                for prefix, batch in self._batches_of(step).items()
                for name, leaf in batch._asdict().items()
            }
            np.savez(path, **arrays)
        bad = [name for name, value in metrics.items() if not np.isfinite(np.asarray(value))] or ["parameters"]
        raise DataError(
            f"{self._folder.name}, step {step}: {', '.join(bad)} not finite; "
            f"the batch is in {path}; lower the learning rate"
        )
