"""The labels at the start of training, as an argument of the bi-level step, and phi beside them.

A table is padded, so that label sets of about one size share a compiled program, and a checkpoint restores onto any
mesh. Everything here is replicated: 100,000 labels are 400 kB.
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
PADDING = 0.5  # label of rows that belong to no step; no batch holds them, so they never move


class LabelStart(NamedTuple):
    """The labels that phi starts from."""

    values: Float[Array, " rows"]  # the first ``known`` of them belong to steps
    known: Int[Array, ""]


def label_start(labels: Parametrisation, raw: Float[np.ndarray, " n"], mesh: Mesh | None = None) -> LabelStart:
    """``raw`` on every device, padded where phi is a table (a network has no rows)."""
    rows = padded_rows(len(raw)) if labels.is_table else len(raw)
    values = np.pad(np.asarray(raw, np.float32), (0, rows - len(raw)), constant_values=PADDING)
    start = LabelStart(jnp.asarray(values), jnp.asarray(len(raw), jnp.int32))
    return start if mesh is None else jax.device_put(start, replicated(mesh))


def padded_rows(count: int) -> int:
    """Rows of the table of ``count`` labels."""
    return -(-count // MULTIPLE) * MULTIPLE


def mean_drift(before: LabelStart, after: Float[Array, " rows"]) -> Float[Array, ""]:
    """Mean |label - label at the start| over the steps."""
    drift = jnp.where(jnp.arange(len(after)) < before.known, jnp.abs(after - before.values), 0.0)
    return jnp.sum(drift) / before.known
