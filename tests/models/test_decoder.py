"""The decoder and the reward model: layouts, attention forms, derivatives."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_toy import random_params

from dreamprm_jax.models import reward
from dreamprm_jax.models.decoder import DecoderConfig, lookup, rotary, swiglu
from dreamprm_jax.models.reward import abstract_params, logical_specs
from dreamprm_jax.schema import DataError

TINY = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
)

hidden_states = jax.jit(reward.hidden_states, static_argnums=0)
step_logits = jax.jit(reward.step_logits, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


def batch(rows=3, length=24, steps=4, seed=1):
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(1, 64, (rows, length)), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    index = jnp.asarray(np.sort(rng.integers(0, length, (rows, steps)), axis=1), jnp.int32)
    return tokens, positions, jnp.ones_like(tokens), index


def test_future_tokens_change_nothing(params):
    tokens, positions, segments, _ = batch()
    before = hidden_states(TINY, params, tokens, positions, segments)
    after = hidden_states(TINY, params, tokens.at[:, 15:].set(7), positions, segments)
    np.testing.assert_array_equal(before[:, :15], after[:, :15])
    assert float(jnp.abs(before[:, 15:] - after[:, 15:]).max()) > 0.1


def test_packed_segments_equal_separate_rows(params):
    tokens, positions, _, _ = batch(rows=2, length=10)
    separate = hidden_states(TINY, params, tokens, positions, jnp.ones_like(tokens))
    packed_tokens = jnp.concatenate([tokens[0], tokens[1, :7], jnp.zeros(3, jnp.int32)])[None]
    packed_positions = jnp.concatenate([positions[0], positions[1, :7], jnp.zeros(3, jnp.int32)])[None]
    segments = jnp.asarray([[1] * 10 + [2] * 7 + [0] * 3])
    packed = hidden_states(TINY, params, packed_tokens, packed_positions, segments)
    np.testing.assert_allclose(packed[0, :10], separate[0], atol=2e-6)
    np.testing.assert_allclose(packed[0, 10:17], separate[1, :7], atol=2e-6)


@pytest.mark.parametrize("attention", ["einsum", "chunked"])
def test_shared_prefix_equals_separate_rows(params, attention):
    config = dataclasses.replace(TINY, attention=attention, attention_chunk=8)
    tokens, _, _, _ = batch(rows=1, length=21)
    prompt, first, second = tokens[0, :9], tokens[0, 9:14], tokens[0, 14:21]
    positions = jnp.concatenate([jnp.arange(9), 9 + jnp.arange(5), 9 + jnp.arange(7)])[None]
    branches = jnp.asarray([[0] * 9 + [1] * 5 + [2] * 7])
    shared = hidden_states(config, params, tokens, positions, jnp.ones_like(tokens), branches=branches)[0]
    for program, rows in ((first, slice(9, 14)), (second, slice(14, 21))):
        alone = jnp.concatenate([prompt, program])[None]
        expected = hidden_states(TINY, params, alone, jnp.arange(alone.shape[1])[None])[0]
        np.testing.assert_allclose(shared[rows], expected[9:], atol=2e-6)
        np.testing.assert_allclose(shared[:9], expected[:9], atol=2e-6)


@pytest.mark.parametrize("chunk", [5, 8, 24, 100])
def test_chunked_attention_equals_einsum(params, chunk):
    config = dataclasses.replace(TINY, attention="chunked", attention_chunk=chunk)
    tokens, positions, _, index = batch()
    segments = jnp.asarray([[1] * 24, [1] * 9 + [2] * 15, [1] * 20 + [0] * 4])
    expected = step_logits(TINY, params, tokens, positions, segments, index)
    np.testing.assert_allclose(step_logits(config, params, tokens, positions, segments, index), expected, atol=1e-6)


def test_no_segments_means_right_padded_rows(params):
    tokens, positions, segments, index = batch()
    padded = segments.at[:, 20:].set(0)
    index = jnp.minimum(index, 19)
    expected = step_logits(TINY, params, tokens, positions, padded, index)
    np.testing.assert_allclose(step_logits(TINY, params, tokens, positions, None, index), expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention": "chunked", "attention_chunk": 7, "remat": "full"}, {"qk_norm": True, "remat": "dots"}],
    ids=str,
)
def test_forward_reverse_and_forward_over_reverse(changes):
    config = dataclasses.replace(TINY, **changes)
    params = random_params(config)
    inputs = batch(rows=2, length=16)
    targets = jax.random.uniform(jax.random.key(3), inputs[3].shape)
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape) * 0.1, params)

    def loss(p, t):
        logits = reward.step_logits(config, p, *inputs)
        return jnp.mean(jax.nn.softplus(logits) - t * logits)

    @jax.jit
    def derivatives(p, t):
        slope = jax.jvp(lambda q: loss(q, t), (p,), (direction,))[1]
        gradient, hvp = jax.jvp(lambda q: jax.grad(loss)(q, t), (p,), (direction,))
        mixed = jax.grad(lambda t: jax.jvp(lambda q: loss(q, t), (p,), (direction,))[1])(t)
        tangent = jax.jvp(lambda q: reward.step_logits(config, q, *inputs), (p,), (direction,))[1]
        return slope, gradient, hvp, mixed, tangent

    slope, gradient, hvp, mixed, tangent = derivatives(params, targets)
    inner = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, inner, rtol=2e-4)
    # The gradient in the targets t is -logits / count, so its tangent is known.
    np.testing.assert_allclose(mixed, -tangent / tangent.size, atol=1e-6)
    chex.assert_tree_all_finite(hvp)
    chex.assert_trees_all_equal_shapes(hvp, params)


def test_bfloat16_stays_close(params):
    inputs = batch()
    narrow = step_logits(dataclasses.replace(TINY, dtype="bfloat16"), params, *inputs)
    wide = step_logits(TINY, params, *inputs)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=0.03)


def test_initialization_has_the_shapes_the_specs_and_the_scale():
    params = jax.jit(reward.init_params, static_argnums=0)(TINY, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract_params(TINY), params)
    layers = params["decoder"]["layers"]
    assert float(jnp.std(layers["q"]["kernel"])) == pytest.approx(32**-0.5, rel=0.1)
    assert float(jnp.std(layers["down"]["kernel"])) == pytest.approx((48 * 2 * 2) ** -0.5, rel=0.1)
    specs = logical_specs(TINY)
    jax.tree.map(lambda leaf, spec: chex.assert_rank(leaf, len(spec)), params, specs)
    assert tuple(specs["decoder"]["layers"]["q"]["kernel"]) == ("layers", "embed", "heads", "head_dim")


def test_head_with_a_hidden_layer():
    config = dataclasses.replace(TINY, head_hidden=16)
    params = random_params(config)
    assert params["head"]["hidden_kernel"].shape == (32, 16)
    assert step_logits(config, params, *batch()).shape == (3, 4)


def test_wrong_shapes_fail_at_the_seam(params):
    tokens, positions, segments, index = batch()
    with pytest.raises(AssertionError):
        step_logits(TINY, params, tokens, positions[:, :-1], segments, index)
    with pytest.raises(AssertionError):
        step_logits(TINY, params, tokens, positions, segments, index[0])


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_fused_kernel_without_a_gpu_says_what_to_do(params):
    config = dataclasses.replace(TINY, attention="cudnn", derivative="once")
    with pytest.raises(DataError, match=r"set model\.dtype to 'bfloat16'"):
        step_logits(config, params, *batch())
    with pytest.raises(DataError, match=r"model\.attention='cudnn' needs an NVIDIA GPU with cuDNN"):
        step_logits(dataclasses.replace(config, dtype="bfloat16"), params, *batch())


def test_impossible_shapes_are_refused():
    with pytest.raises(DataError, match="num_heads=4 must be a multiple of num_kv_heads=3"):
        dataclasses.replace(TINY, num_kv_heads=3)
    with pytest.raises(DataError, match="head_dim=7 must be even"):
        dataclasses.replace(TINY, head_dim=7)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_the_embedding_gradient_of_a_frequent_token_keeps_its_norm(params, param_dtype):
    """With sums in bfloat16, the gradient of a token at 60% of the positions would lose a third of its norm."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(np.where(rng.random((4, 512)) < 0.6, 3, rng.integers(4, 64, (4, 512))), jnp.int32)
    cotangent = jnp.asarray(rng.uniform(0.5, 1.5, (4, 512, 32)), jnp.float32)
    table = params["decoder"]["embedding"].astype(param_dtype)

    def loss(table):
        return (lookup(table, tokens).astype(jnp.bfloat16).astype(jnp.float32) * cotangent).sum()

    row = np.asarray(jax.grad(loss)(table)[3], np.float64)
    exact = np.where((tokens == 3)[..., None], np.asarray(cotangent.astype(jnp.bfloat16), np.float64), 0.0).sum((0, 1))
    assert np.linalg.norm(row) / np.linalg.norm(exact) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("derivative", ["any", "once", "forward"])
def test_swiglu_is_silu_times_up(derivative):
    gate, up, dgate, dup = jax.random.normal(jax.random.key(0), (4, 5, 7))

    def plain(gate, up):
        return jax.nn.silu(gate) * up

    def ours(gate, up):
        return swiglu(gate, up, derivative)

    chex.assert_trees_all_close(*(jax.jvp(f, (gate, up), (dgate, dup)) for f in (ours, plain)), atol=1e-6)
    chex.assert_trees_all_close(*(jax.vjp(f, gate, up)[1](dgate) for f in (ours, plain)), atol=1e-6)
    if derivative != "any":  # this form is differentiated only once
        return
    second = (jax.hessian(lambda gate, f=f: (f(gate, up) ** 2).sum())(gate) for f in (ours, plain))
    chex.assert_trees_all_close(*second, atol=2e-6)


def test_rotation_in_bfloat16_rounds_once():
    x = jax.random.normal(jax.random.key(0), (2, 16, 4, 8)).astype(jnp.bfloat16)
    positions = jnp.broadcast_to(jnp.arange(16), (2, 16))
    wide = rotary(x.astype(jnp.float32), positions, TINY)
    np.testing.assert_array_equal(rotary(x, positions, TINY), wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("remat", ["full", "attention", "dots", "offload"])
def test_what_is_kept_changes_nothing(params, remat):
    inputs = batch(rows=2, length=12)

    def gradient(config):
        return jax.jit(jax.grad(lambda p: jnp.sum(step_logits(config, p, *inputs) ** 2)))(params)

    chex.assert_trees_all_close(gradient(dataclasses.replace(TINY, remat=remat)), gradient(TINY), atol=1e-5, rtol=1e-5)
