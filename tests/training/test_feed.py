"""Packing: every example occurs once per epoch, no row exceeds its capacity, and logits equal those of single rows."""

from collections import Counter

import chex
import jax
import numpy as np
import pytest
from training_toy import make_examples

from dreamprm_jax.schema import DataError
from dreamprm_jax.training.examples import NO_LABEL
from dreamprm_jax.training.feed import PackedRows, Shape, check_batch, collate, pack, row_length
from dreamprm_jax.training.losses import batch_logits


@pytest.mark.parametrize("capacity", [20, 50, 300])
def test_pack_loses_nothing_and_overfills_nothing(capacity):
    rng = np.random.default_rng(capacity)
    lengths = rng.integers(1, 21, 1000).tolist()
    rows = pack(lengths, capacity, seed=1)
    assert sorted(i for row in rows for i in row) == list(range(1000))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert max(used) <= capacity
    assert sum(used) / (len(rows) * capacity) > 0.9
    assert rows == pack(lengths, capacity, seed=1)
    assert rows != pack(lengths, capacity, seed=2)


def test_every_example_is_seen_once_an_epoch():
    examples = make_examples(30)
    rows = PackedRows(examples, 32, 1, seed=3)
    assert max(sum(len(examples[i].tokens) for i in row) for row in rows.rows) <= rows.shape.tokens == 32
    epochs = []
    for epoch in range(3):
        order = []
        for step in range(epoch * len(rows.rows), (epoch + 1) * len(rows.rows)):
            batch = rows.batch(step)
            for segment in range(1, batch.segments.max() + 1):
                order.append(tuple(batch.tokens[0][batch.segments[0] == segment]))
        assert Counter(order) == Counter(tuple(e.tokens) for e in examples)
        epochs.append(order)
    assert epochs[0] != epochs[1] != epochs[2]
    assert rows.packing_efficiency == pytest.approx(sum(len(e.tokens) for e in examples) / (32 * len(rows.rows)))


def test_rows_of_an_epoch_fill_whole_batches():
    """With several rows per batch, batches continue across the end of an epoch, so no row is dropped."""
    examples = make_examples(30)
    single, triple = PackedRows(examples, 32, 1, seed=3), PackedRows(examples, 32, 3, seed=3)
    flat = [single.batch(step).tokens[0] for step in range(12)]
    np.testing.assert_array_equal(np.concatenate([triple.batch(step).tokens for step in range(4)]), flat)


def test_batch_needs_no_state_but_the_step():
    examples = make_examples(20)
    one, other = PackedRows(examples, 32, 2, seed=0), PackedRows(examples, 32, 2, seed=0)
    forward = [one.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        chex.assert_trees_all_equal(other.batch(step), forward[step])
    different = PackedRows(examples, 32, 2, seed=1)
    assert any((different.batch(step).tokens != forward[step].tokens).any() for step in range(3))


def test_a_program_that_fits_no_row_is_refused():
    examples = make_examples(6)
    longest = max(examples, key=lambda example: len(example.tokens))
    assert PackedRows(examples, len(longest.tokens), 1, seed=0).shape.tokens == len(longest.tokens)
    with pytest.raises(DataError, match=r"tokens do not fit rows of 9; raise config\.train\.row_tokens, or set config"):
        PackedRows(examples, 9, 1, seed=0)


def test_rows_are_multiples_of_the_registers_width():
    assert [row_length(tokens) for tokens in (8, 128, 129, 1000)] == [128, 128, 256, 1024]


def test_collate_places_everything():
    examples = make_examples(5)
    rows = [examples[:3], examples[3:]]
    steps = max(sum(len(e.step_index) for e in row) for row in rows) + 2
    batch = collate(rows, Shape(60, steps))
    for row, packed in enumerate(rows):
        token = step = 0
        for segment, example in enumerate(packed, 1):
            here = slice(token, token + len(example.tokens))
            np.testing.assert_array_equal(batch.tokens[row, here], example.tokens)
            np.testing.assert_array_equal(batch.positions[row, here], np.arange(len(example.tokens)))
            assert (batch.segments[row, here] == segment).all()
            for index, end in enumerate(example.step_index):
                assert batch.step_index[row, step + index] == token + end
                noisy = example.label_index[index] != NO_LABEL
                assert batch.label_mask[row, step + index] == noisy
                assert batch.label_index[row, step + index] == (example.label_index[index] if noisy else 0)
                assert batch.raw[row, step + index] == example.raw[index]
                last = index == len(example.step_index) - 1
                assert batch.outcome_mask[row, step + index] == last
                assert batch.outcome[row, step + index] == (example.outcome if last else 0)
            token, step = here.stop, step + len(example.step_index)
        for leaf in (batch.tokens, batch.positions, batch.segments):
            assert not leaf[row, token:].any()
        for leaf in batch[3:]:
            assert leaf.ndim == 1 or not leaf[row, step:].any()


def test_packed_logits_equal_separate_passes(micro, micro_params):
    examples = make_examples(8)
    shape = Shape(48, 12)
    rows = PackedRows(examples, shape.tokens, 1, seed=0).rows
    packed = collate([[examples[i] for i in row] for row in rows], shape)
    forward = jax.jit(batch_logits, static_argnums=0)
    logits = np.asarray(forward(micro, micro_params, packed))
    alone = np.asarray(forward(micro, micro_params, collate([[e] for e in examples], shape)))
    assert alone.std() > 0.1
    assert max(len(row) for row in rows) >= 3
    for row, members in enumerate(rows):
        step = 0
        for index in members:
            count = len(examples[index].step_index)
            np.testing.assert_allclose(logits[row, step : step + count], alone[index, :count], atol=1e-5)
            step += count


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("positions", lambda leaf: leaf[:, :-1]),  # a different length
        ("raw", lambda leaf: leaf[:1]),  # a different number of rows
        ("label_mask", lambda leaf: leaf.astype(np.float32)),  # not a mask
        ("label_index", lambda leaf: leaf.astype(np.float32)),
        ("outcome_share", lambda leaf: leaf[:, None]),
    ],
)
def test_leaves_that_do_not_fit_are_refused(field, change):
    batch = PackedRows(make_examples(8), 32, 2, seed=0).batch(0)
    check_batch(batch)
    with pytest.raises(AssertionError, match="Assertion assert_"):
        check_batch(batch._replace(**{field: change(getattr(batch, field))}))
    with pytest.raises(AssertionError, match="Assertion assert_rank failed"):
        check_batch(batch, leading=1)
    with pytest.raises(AssertionError, match="needs a batch of the outer problem"):
        check_batch(None)
