"""Batches for scoring: sequences grouped by length into few padded shapes: few compilations, little padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dreamprm_jax.schema import Program
from dreamprm_jax.training.examples import NO_LABEL, Example
from dreamprm_jax.training.feed import Batch, Shape, collate


@dataclass(frozen=True)
class Sequence:
    """One program after its prompt, to be scored."""

    program: Program
    tokens: Int[np.ndarray, " t"]
    step_index: Int[np.ndarray, " s"]


@dataclass(frozen=True)
class Bucket:
    """One batch: the sequences' places in the input, and their padded arrays (rows beyond them repeat the last)."""

    indices: list[int]
    batch: Batch
    padding: int  # tokens computed that belong to no sequence


def bucket_length(length: int) -> int:
    """The padded length: the next of 32, 48, 64, 96, 128, 192, ... (at most half as much again)."""
    size = 32
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def bucketed(sequences: list[Sequence], batch_size: int) -> Iterator[Bucket]:
    """Groups sequences of one padded length; every batch has ``batch_size`` rows, so that each length compiles once."""
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(bucket_length(len(sequence.tokens)), []).append(index)
    steps = bucket_length(max((len(s.step_index) for s in sequences), default=1))
    for length in sorted(groups):
        for first in range(0, len(groups[length]), batch_size):
            indices = groups[length][first : first + batch_size]
            padded = indices + [indices[-1]] * (batch_size - len(indices))
            batch = collate([[_unlabelled(sequences[index])] for index in padded], Shape(length, steps))
            real = sum(len(sequences[index].tokens) for index in indices)
            yield Bucket(indices, batch, batch_size * length - real)


def _unlabelled(sequence: Sequence) -> Example:
    steps = len(sequence.step_index)
    labels = np.full(steps, NO_LABEL, np.int32)
    zeros = np.zeros(steps, np.float32)
    program = sequence.program
    return Example(program.problem_id, program.program_hash, sequence.tokens, sequence.step_index, labels, zeros, 0.0)
