"""A guard against non-finite values. It checks every step without making the device wait."""

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
    """Whether losses, norms, new parameters and phi are finite. Meant to be compiled into the step.

    The optimizers' moments need no check: if a square overflows, the norm is infinite too.
    """
    leaves = jax.tree.leaves((result.metrics, result.state.params, result.state.phi))
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack(flags))


class _Pending(NamedTuple):
    step: int
    finite: Bool[Array, ""]
    metrics: Metrics


class FiniteGuard:
    """Reads the flag of a step after the next step has been dispatched, so that the device is never idle."""

    def __init__(self, folder: Path, batches_of: Callable[[int], dict[str, Batch]], writes: bool = True):
        """Args: where to keep a bad batch; the batches of a step, by name; whether this process writes files."""
        self._folder, self._batches_of, self._writes = folder, batches_of, writes
        self._pending: _Pending | None = None

    def watch(self, step: int, finite: Bool[Array, ""], metrics: Metrics) -> None:
        """Stores the flag of the step just dispatched, and checks the flag of the previous step.

        Raises:
          DataError: if values of that step are not finite; names the step and the file with its batches.
        """
        self.settle()
        self._pending = _Pending(step, finite, metrics)

    def settle(self) -> None:
        """Checks the last step. Call it before anything is written. Raises the same error as ``watch``."""
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
