"""Rows of packed programs, and a stateless sampler: the batch of step s depends only on the seed and s."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from dreamprm_jax.schema import DataError
from dreamprm_jax.training.examples import NO_LABEL, Example, relabel

ROW_MULTIPLE = 128  # tokens: the width of a TPU's vector registers and of the blocks of fused attention
Row = tuple[int, ...]  # the examples packed into one row, as indices


def row_length(row_tokens: int) -> int:
    """Tokens per row on the device: ``config.train.row_tokens`` rounded up to a multiple of ``ROW_MULTIPLE``."""
    return -(-row_tokens // ROW_MULTIPLE) * ROW_MULTIPLE


class Batch(NamedTuple):
    """Rows of packed programs. Axis legend: B rows, T tokens, S steps of all the programs of a row."""

    tokens: Int[Any, "B T"]
    positions: Int[Any, "B T"]  # restart at every program
    segments: Int[Any, "B T"]  # 1, 2, ... by program, 0 for padding
    step_index: Int[Any, "B S"]  # position of each step's last token, 0 in unused slots
    label_mask: Bool[Any, "B S"]  # steps with a noisy label
    label_index: Int[Any, "B S"]  # their rows in the label table, 0 elsewhere
    raw: Float[Any, "B S"]  # their labels (for the online EM: evidence), 0 elsewhere
    outcome_mask: Bool[Any, "B S"]  # last steps of programs with a known outcome
    outcome: Float[Any, "B S"]  # the programs' outcomes there, 0 elsewhere
    # The denominators of the losses: the number of true entries of each mask in the whole batch (at least 1), divided
    # equally among the rows. Micro-batches keep these values, so that the mean of their losses is the loss of the whole
    # batch even if they are uneven.
    label_share: Float[Any, " B"]
    outcome_share: Float[Any, " B"]


class Shape(NamedTuple):
    """Padded sizes of a row."""

    tokens: int
    steps: int


def pack(lengths: Sequence[int], row_tokens: int, seed: int) -> list[Row]:
    """Shuffles sequences and packs each into the first open row with room; 64 rows stay open.

    Args:
      lengths: tokens of each sequence, at most ``row_tokens``.
      row_tokens: capacity of a row.
      seed: seed of the shuffle.
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


def packed_rows(examples: Sequence[Example], row_tokens: int, seed: int) -> tuple[list[Row], Shape]:
    """Rows of ``row_tokens`` tokens, and the padded shape of a row.

    Raises:
      DataError: naming the first program that is longer than a row.
    """
    if too_long := next((e for e in examples if len(e.tokens) > row_tokens), None):
        raise DataError(
            f"program {too_long.program_hash} of {too_long.problem_id}: {len(too_long.tokens)} tokens do not fit rows "
            f"of {row_tokens}; raise config.train.row_tokens, or set config.model.overlong to 'truncate_statement' or "
            "'drop'"
        )
    rows = pack([len(example.tokens) for example in examples], row_tokens, seed)
    return rows, Shape(row_tokens, max(sum(len(examples[i].step_index) for i in row) for row in rows))


class PackedRows:
    """Examples packed once, read in endless shuffled epochs."""

    def __init__(self, examples: Sequence[Example], row_tokens: int, batch_size: int, seed: int):
        """Packs ``examples`` into rows of ``row_tokens`` tokens.

        Raises:
          DataError: naming the first program that is longer than a row.
        """
        self.examples = examples
        self.rows, self.shape = packed_rows(examples, row_tokens, seed)
        self.batch_size = batch_size
        self._indices = grain.MapDataset.range(len(self.rows)).seed(seed).shuffle().repeat(None).batch(batch_size)

    def relabeled(self, labels: Float[np.ndarray, " n"]) -> PackedRows:
        """The same rows in the same order, with other labels in the label table; see ``examples.relabel``."""
        other = copy.copy(self)
        other.examples = relabel(self.examples, labels)
        return other

    def batch(self, step: int, places: Sequence[int] | None = None) -> Batch:
        """The batch of one step. It depends on no state except ``step``, so resuming is exact.

        Args:
          step: number of the step, from 0.
          places: the rows of the batch to make; all by default. Their shares are those of the whole batch.
        """
        indices = np.asarray(self._indices[step])
        whole = [[self.examples[i] for i in self.rows[index]] for index in indices]
        if places is None:
            return collate(whole, self.shape)
        part = collate([whole[place] for place in places], self.shape)
        shares = (np.full(len(places), share, np.float32) for share in _shares(whole))
        return part._replace(**dict(zip(("label_share", "outcome_share"), shares, strict=True)))

    @property
    def packing_efficiency(self) -> float:
        """The share of tokens that are not padding."""
        return sum(len(e.tokens) for e in self.examples) / (len(self.rows) * self.shape.tokens)


def collate(rows: Sequence[Sequence[Example]], shape: Shape) -> Batch:
    """Packs and pads rows of examples into one batch."""
    size = len(rows)
    label_share, outcome_share = _shares(rows)
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
        label_share=np.full(size, label_share, np.float32),
        outcome_share=np.full(size, outcome_share, np.float32),
    )
    for row, examples in enumerate(rows):
        token, step = 0, 0
        for segment, example in enumerate(examples, 1):
            length, steps = len(example.tokens), len(example.step_index)
            here, slots = slice(token, token + length), slice(step, step + steps)
            labeled = example.label_index != NO_LABEL
            batch.tokens[row, here] = example.tokens
            batch.positions[row, here] = np.arange(length)
            batch.segments[row, here] = segment
            batch.step_index[row, slots] = token + example.step_index
            batch.label_mask[row, slots] = labeled
            batch.label_index[row, slots] = np.where(labeled, example.label_index, 0)
            batch.raw[row, slots] = example.raw
            if not np.isnan(example.outcome):
                batch.outcome_mask[row, step + steps - 1] = True
                batch.outcome[row, step + steps - 1] = example.outcome
            token, step = token + length, step + steps
    return batch


def _shares(rows: Sequence[Sequence[Example]]) -> tuple[float, float]:
    """The numbers of labeled steps and of known outcomes of a batch, divided by its number of rows."""
    labels = sum(int((example.label_index != NO_LABEL).sum()) for row in rows for example in row)
    outcomes = sum(not np.isnan(example.outcome) for row in rows for example in row)
    return max(labels, 1) / len(rows), max(outcomes, 1) / len(rows)


def check_batch(batch: Batch | None, leading: int = 0) -> None:
    """Asserts ranks, equal sizes and dtypes of a batch's leaves, behind ``leading`` axes of steps and micro-batches."""
    if batch is None:
        raise AssertionError("this step needs a batch of the outer problem")
    tokens = (batch.tokens, batch.positions, batch.segments)
    slots = (batch.step_index, batch.label_mask, batch.label_index, batch.raw, batch.outcome_mask, batch.outcome)
    shares = (batch.label_share, batch.outcome_share)
    for leaves, rank in ((tokens, 2), (slots, 2), (shares, 1)):
        chex.assert_rank(leaves, leading + rank)
        chex.assert_equal_shape(leaves)
    chex.assert_equal_shape_prefix([batch.tokens, batch.step_index, batch.label_share], leading + 1)
    chex.assert_type([*tokens, batch.step_index, batch.label_index], int)
    chex.assert_type([batch.label_mask, batch.outcome_mask], bool)
    chex.assert_type([batch.raw, batch.outcome, *shares], float)


def score_all_steps(
    logits_of: Callable[[Batch], Float[np.ndarray, "B S"]], rows: PackedRows
) -> list[Float[np.ndarray, " steps"]]:
    """Scores each program of ``rows`` once.

    Args:
      logits_of: a reward model; all batches have the same shape.
      rows: packed programs.

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
