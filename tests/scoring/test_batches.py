"""Buckets: few padded lengths, everything once, padding counted."""

import numpy as np
import pytest

from dreamprm_jax.schema import Program
from dreamprm_jax.scoring.batches import Sequence, bucket_length, bucketed


def sequences_of(lengths):
    rng = np.random.default_rng(0)
    return [
        Sequence(
            Program("p", str(i), 0, "", "", ""),
            rng.integers(1, 99, n).astype(np.int32),
            np.asarray([n // 2, n - 1], np.int32),
        )
        for i, n in enumerate(lengths)
    ]


def test_bucket_lengths():
    lengths = [bucket_length(n) for n in range(1, 1025)]
    assert sorted(set(lengths)) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(length >= n for n, length in enumerate(lengths, 1))
    assert all(length < 1.5 * n for n, length in enumerate(lengths, 1) if n > 32)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_sequence_once_and_padding_counted(batch_size):
    lengths = np.random.default_rng(1).integers(3, 200, 53).tolist()
    sequences = sequences_of(lengths)
    buckets = list(bucketed(sequences, batch_size))
    assert sorted(i for bucket in buckets for i in bucket.indices) == list(range(53))
    padded = [bucket.batch.tokens.shape for bucket in buckets]
    assert padded == sorted(padded)
    assert len({bucket.batch.step_index.shape for bucket in buckets}) == 1  # shapes differ by length alone
    for bucket in buckets:
        rows, length = bucket.batch.tokens.shape
        assert rows == batch_size
        assert {bucket_length(lengths[i]) for i in bucket.indices} == {length}
        assert bucket.padding == rows * length - sum(lengths[i] for i in bucket.indices)
        for row in range(rows):
            sequence = sequences[bucket.indices[min(row, len(bucket.indices) - 1)]]
            count = len(sequence.tokens)
            np.testing.assert_array_equal(bucket.batch.tokens[row, :count], sequence.tokens)
            np.testing.assert_array_equal(bucket.batch.segments[row], np.arange(length) < count)
            np.testing.assert_array_equal(bucket.batch.step_index[row, :2], sequence.step_index)
            assert not bucket.batch.tokens[row, count:].any()
        assert not bucket.batch.label_mask.any()


def test_nothing_to_score():
    assert list(bucketed([], 4)) == []
