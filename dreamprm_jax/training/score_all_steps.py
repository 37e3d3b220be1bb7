"""Logits of every step of whole programs, by packed rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from dreamprm_jax.training.feed import Batch, PackedRows, collate


def score_all_steps(
    logits_of: Callable[[Batch], Float[np.ndarray, "B S"]], rows: PackedRows
) -> list[Float[np.ndarray, " steps"]]:
    """Reads each program of ``rows`` once.

    Args:
      logits_of: a reward model; all batches have one shape.
      rows: programs, packed.

    Returns:
      The logits of every step of every program, in the order of ``rows.examples``.
    """
    found: dict[int, Float[np.ndarray, " steps"]] = {}
    size = rows.batch_size
    for first in range(0, len(rows.rows), size):
        group = rows.rows[first : first + size]
        filled = [[rows.examples[i] for i in row] for row in group] + [[] for _ in range(size - len(group))]
        logits = np.asarray(logits_of(collate(filled, rows.shape)))
        for row, values in zip(group, logits, strict=False):
            place = 0
            for index in row:
                steps = len(rows.examples[index].step_index)
                found[index] = values[place : place + steps]
                place += steps
    return [found[index] for index in range(len(rows.examples))]
