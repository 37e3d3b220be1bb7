"""The initial labels, which are an argument of the bi-level step.

A table is padded, so that label sets of similar size share a compiled program, and a checkpoint can be restored onto
any mesh. Everything here is replicated: 100,000 labels take 400 kB.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.training.mesh import replicated

MULTIPLE = 4096  # rows
PADDING = 0.5  # label of rows that belong to no step; no batch contains them, so they are never updated


class LabelStart(NamedTuple):
    """The labels that phi starts from."""

    values: Float[Array, " rows"]  # the first ``known`` of them belong to steps
    known: Int[Array, ""]


def label_start(labels: Parametrisation, raw: Float[np.ndarray, " n"], mesh: Mesh | None = None) -> LabelStart:
    """``raw`` on every device, padded if phi is a table (a network has no rows)."""
    rows = padded_rows(len(raw)) if labels.is_table else len(raw)
    values = np.pad(np.asarray(raw, np.float32), (0, rows - len(raw)), constant_values=PADDING)
    start = LabelStart(jnp.asarray(values), jnp.asarray(len(raw), jnp.int32))
    return start if mesh is None else jax.device_put(start, replicated(mesh))


def padded_rows(count: int) -> int:
    """The number of rows of a table for ``count`` labels."""
    return -(-count // MULTIPLE) * MULTIPLE


def mean_drift(before: LabelStart, after: Float[Array, " rows"]) -> Float[Array, ""]:
    """Mean |label - initial label| over the steps."""
    drift = jnp.where(jnp.arange(len(after)) < before.known, jnp.abs(after - before.values), 0.0)
    return jnp.sum(drift) / before.known
