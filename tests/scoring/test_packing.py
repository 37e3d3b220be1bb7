"""Packed scoring: each token is computed once, after its own prefix; no step is lost; logits equal separate passes."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import init_params, step_logits
from dreamprm_jax.scoring.packing import BLOCK, batch_sizes, pack, row_length, whole_shapes
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.training.mesh import make_mesh

MODEL = DecoderConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)


def candidates(problems: int, each: int, seed: int = 0, prompt: int = 60, code: int = 50):
    """Token sequences: ``each`` programs after the prompt of each problem; some programs have the same beginning."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(problems):
        head = rng.integers(1, 64, int(rng.integers(prompt // 2, prompt)))
        stem = rng.integers(1, 64, 20)
        for number in range(each):
            body = rng.integers(1, 64, int(rng.integers(1, code)))
            sequences.append(np.concatenate([head, stem, body] if number % 3 == 0 else [head, body]).astype(np.int32))
    return sequences


def seen_by(packed, row, place):
    """Tokens and positions that the token at ``place`` reads, in row order, according to the mask and the blocks."""
    places = np.arange(packed.tokens.shape[1])
    mask = (places <= place) & (place < packed.reach[row])
    if packed.blocks is not None:
        mask &= np.isin(places // BLOCK, packed.blocks[row, place // BLOCK])
    return packed.tokens[row, mask], packed.positions[row, mask]


def check(sequences, batches):
    assert sorted(index for packed in batches for index in packed.places) == list(range(len(sequences)))
    for packed in batches:
        for index, (row, path) in packed.places.items():
            np.testing.assert_array_equal(packed.tokens[row, path], sequences[index])
            for place in {0, len(path) // 2, len(path) - 1}:
                tokens, positions = seen_by(packed, row, path[place])
                np.testing.assert_array_equal(tokens, sequences[index][: place + 1])
                np.testing.assert_array_equal(positions, np.arange(place + 1))


@pytest.mark.parametrize(("row_tokens", "batch_tokens", "ways"), [(64, 256, 1), (512, 1024, 2), (1024, 1024, 1)])
def test_every_token_sees_its_own_prefix(row_tokens, batch_tokens, ways):
    sequences = candidates(6, 7) + candidates(1, 1, 5, prompt=300, code=300)
    batches = pack(sequences, row_tokens, batch_tokens, ways)
    check(sequences, batches)
    assert all(len(packed.tokens) % ways == 0 for packed in batches)
    distinct = sum(packed.distinct for packed in batches)
    assert distinct < 0.75 * sum(map(len, sequences))
    used = sum(len({(r, p) for r, path in packed.places.values() for p in path}) for packed in batches)
    assert distinct == used  # within a row, no token is computed twice, and every token is used


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=150), min_size=1, max_size=25), st.integers(0, 40))
def test_any_sequences(rows, common):
    sequences = [np.asarray([*([1] * common), *row], np.int32) for row in rows]
    check(sequences, pack(sequences, 128, 512))


def test_a_problem_with_many_candidates_fills_several_rows_with_one_prompt_each():
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, 64, 200)
    sequences = [np.concatenate([prompt, rng.integers(1, 64, 40)]).astype(np.int32) for _ in range(100)]
    batches = pack(sequences, 1024, 4096)
    rows = {(n, row) for n, packed in enumerate(batches) for row, _ in packed.places.values()}
    assert len(rows) == 5  # 20 programs per row
    assert 100 * 40 + 5 * 180 < sum(packed.distinct for packed in batches) <= 100 * 40 + 5 * 200
    check(sequences, batches)


def test_equal_and_nested_sequences_cost_nothing_more():
    rng = np.random.default_rng(1)
    whole = rng.integers(1, 64, 90).astype(np.int32)
    sequences = [whole, whole[:50], whole, whole[:70], whole[:50]]
    (packed,) = pack(sequences, 1024, 1024)
    assert packed.distinct == 90
    check(sequences, [packed])


def test_few_shapes_and_little_padding():
    sequences = candidates(150, 8, 3, prompt=200, code=120)
    batches = pack(sequences, 2048, 8192)
    assert len({packed.shape for packed in batches}) <= 4
    computed = sum(packed.tokens.size for packed in batches)
    assert computed < 1.1 * sum(packed.distinct for packed in batches)
    assert pack([], 64, 64) == []


def test_batch_sizes():
    for ways in (1, 2, 8):
        for rows in range(1, 150):
            sizes = list(batch_sizes(rows, 64, ways))
            assert sum(sizes) >= rows
            assert all(size % ways == 0 for size in sizes)
            assert sum(sizes) - rows <= max(rows / 3, ways - 1)  # at most a quarter of the rows are padding
            assert set(sizes) <= {64, 32, 16, 8, 4, 2, 1}
    assert [row_length(n) for n in (1, 64, 65, 96, 97, 129, 1000)] == [64, 64, 96, 96, 128, 192, 1024]


@pytest.fixture(scope="module")
def model():
    params = jax.jit(init_params, static_argnums=0)(MODEL, jax.random.key(0))
    return make_mesh(MeshConfig()), params | {"head": jax.tree.map(lambda leaf: 40 * leaf, params["head"])}


def pack_in(row_tokens, share, sequences, ways):
    return pack(sequences, row_tokens, 2048, ways, share=share)


def test_logits_equal_separate_passes(model, monkeypatch):
    """The difference is float32 rounding, below 1e-4, with and without blocks, in one row or many."""
    mesh, params = model
    rng = np.random.default_rng(2)
    sequences = candidates(5, 8, 4, prompt=90, code=90)
    readings = [Reading(s, np.unique(rng.integers(0, len(s), 3))) for s in sequences]
    one = jax.jit(lambda tokens: step_logits(MODEL, params, tokens, jnp.arange(256)[None], None, jnp.arange(256)[None]))
    padded = np.zeros((len(sequences), 256), np.int32)
    for row, tokens in enumerate(sequences):
        padded[row, : len(tokens)] = tokens
    separate = [np.asarray(one(row[None]))[0][r.ends] for row, r in zip(padded, readings, strict=True)]
    assert np.ptp(np.concatenate(separate)) > 1
    blocked = set()
    for row_tokens, share in ((256, True), (2048, True), (2048, False)):
        scorer = Scorer(MODEL, mesh, params, row_tokens, 2048)
        monkeypatch.setattr(scorer, "_pack", functools.partial(pack_in, row_tokens, share))
        done = []
        for got, wanted in zip(scorer.logits(readings, done.append), separate, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert sum(done) == len(readings)
        summary = Counter(scorer.summary())
        assert summary["tokens"] == sum(map(len, sequences))
        assert (summary["tokens computed"] < 0.7 * summary["tokens"]) == share
        assert summary["compilations"] == len(scorer.shapes)
        blocked |= {shape[2] > 0 for shape in scorer.shapes}
    assert blocked == {True, False}


def test_the_cheaper_form_is_taken(model):
    mesh, params = model
    scorer, rng = Scorer(MODEL, mesh, params, 2048, 4096), np.random.default_rng(0)
    prompt = rng.integers(1, 64, 400)
    for common, shared in ((prompt, True), (prompt[:0], False)):
        sequences = [np.concatenate([common, rng.integers(1, 64, 60)]).astype(np.int32) for _ in range(48)]
        batches = scorer._pack(sequences, 1)
        check(sequences, batches)
        assert (sum(packed.distinct for packed in batches) < sum(map(len, sequences))) == shared
        assert all(packed.tokens.shape[1] == 64 and packed.blocks is None for packed in batches) == (not shared)


@pytest.mark.parametrize("longest", [40, 300, 3000])
def test_shapes_of_whole_sequences_follow_from_their_lengths(longest):
    rng = np.random.default_rng(longest)
    sequences = [rng.integers(1, 64, int(rng.integers(1, longest + 1))).astype(np.int32) for _ in range(40)]
    assert whole_shapes(sequences, 4096, 2) == [packed.shape for packed in pack(sequences, 64, 4096, 2, share=False)]


def test_a_batch_is_as_long_as_its_distinct_tokens():
    """The prompt of a problem counts once, for any number of programs after it."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, 64, 400)
    sequences = [np.concatenate([prompt, rng.integers(1, 64, 150)]).astype(np.int32) for _ in range(8)]
    [packed] = pack(sequences, 8192, 16384)
    assert packed.tokens.shape == (1, 2048)  # 1,600 distinct tokens of 4,400 in total
    check(sequences, [packed])
