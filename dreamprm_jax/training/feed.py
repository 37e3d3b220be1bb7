"""Rows of packed programs, and a stateless sampler: the batch of step s depends on the seed and s alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from dreamprm_jax.training.examples import NO_LABEL, Example

Row = tuple[int, ...]  # the examples packed into one row, as indices


class Batch(NamedTuple):
    """Rows of packed programs. Axis legend: B rows, T tokens, S steps of all the programs of a row."""

    tokens: Int[Any, "B T"]
    positions: Int[Any, "B T"]  # restart at every program
    segments: Int[Any, "B T"]  # 1, 2, ... by program, 0 for padding
    step_index: Int[Any, "B S"]  # position of each step's last token, 0 in unused slots
    label_mask: Bool[Any, "B S"]  # steps with a noisy label
    label_index: Int[Any, "B S"]  # their rows in the label table, 0 elsewhere
    raw: Float[Any, "B S"]  # their Monte-Carlo labels, 0 elsewhere
    outcome_mask: Bool[Any, "B S"]  # last steps of programs
    outcome: Float[Any, "B S"]  # the programs' outcomes there, 0 elsewhere


class Shape(NamedTuple):
    """Padded sizes of a row."""

    tokens: int
    steps: int


def pack(lengths: Sequence[int], row_tokens: int, seed: int) -> list[Row]:
    """Packs sequences into rows: shuffled, then each into the first open row with room (64 rows stay open).

    Args:
      lengths: tokens of each sequence, none above ``row_tokens``.
      row_tokens: capacity of a row.
      seed: of the shuffle.
    """
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    full: list[list[int]] = []
    open_rows: list[tuple[list[int], int]] = []
    for index in order:
        for slot, (row, used) in enumerate(open_rows):
            if used + lengths[index] <= row_tokens:
                row.append(index)
                open_rows[slot] = (row, used + lengths[index])
                break
        else:
            open_rows.append(([index], lengths[index]))
        if len(open_rows) > 64:
            fullest = max(range(len(open_rows)), key=lambda slot: open_rows[slot][1])
            full.append(open_rows.pop(fullest)[0])
    return [tuple(row) for row in (*full, *(row for row, _ in open_rows))]


class PackedRows:
    """Examples packed once, read in endless shuffled epochs."""

    def __init__(self, examples: Sequence[Example], row_tokens: int, batch_size: int, seed: int):
        """Packs ``examples`` into rows of at least ``row_tokens`` tokens (more, if one needs more)."""
        lengths = [len(example.tokens) for example in examples]
        tokens = max(row_tokens, *lengths)
        self.examples = examples
        self.rows = pack(lengths, tokens, seed)
        steps = max(sum(len(examples[i].step_index) for i in row) for row in self.rows)
        self.shape = Shape(tokens, steps)
        self._indices = grain.MapDataset.range(len(self.rows)).seed(seed).shuffle().repeat(None).batch(batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of one step. Needs no state but ``step``, so that resuming is exact."""
        rows = [self.rows[index] for index in np.asarray(self._indices[step])]
        return collate([[self.examples[i] for i in row] for row in rows], self.shape)

    @property
    def fill(self) -> float:
        """Share of a row's tokens that are no padding, on average."""
        return sum(len(e.tokens) for e in self.examples) / (len(self.rows) * self.shape.tokens)


def collate(rows: Sequence[Sequence[Example]], shape: Shape) -> Batch:
    """Packs and pads rows of examples into one batch."""
    size = len(rows)
    batch = Batch(
        tokens=np.zeros((size, shape.tokens), np.int32),
        positions=np.zeros((size, shape.tokens), np.int32),
        segments=np.zeros((size, shape.tokens), np.int32),
        step_index=np.zeros((size, shape.steps), np.int32),
        label_mask=np.zeros((size, shape.steps), bool),
        label_index=np.zeros((size, shape.steps), np.int32),
        raw=np.zeros((size, shape.steps), np.float32),
        outcome_mask=np.zeros((size, shape.steps), bool),
        outcome=np.zeros((size, shape.steps), np.float32),
    )
    for row, examples in enumerate(rows):
        token, step = 0, 0
        for segment, example in enumerate(examples, 1):
            length, steps = len(example.tokens), len(example.step_index)
            here, slots = slice(token, token + length), slice(step, step + steps)
            labelled = example.label_index != NO_LABEL
            batch.tokens[row, here] = example.tokens
            batch.positions[row, here] = np.arange(length)
            batch.segments[row, here] = segment
            batch.step_index[row, slots] = token + example.step_index
            batch.label_mask[row, slots] = labelled
            batch.label_index[row, slots] = np.where(labelled, example.label_index, 0)
            batch.raw[row, slots] = example.raw
            batch.outcome_mask[row, step + steps - 1] = True
            batch.outcome[row, step + steps - 1] = example.outcome
            token, step = token + length, step + steps
    return batch
