"""Compares every form of attention with the full score matrix: values, and the derivatives that the form supports."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamprm_jax.models import attention, fused
from dreamprm_jax.models.attention import Layout, chunked_attention, einsum_attention, reach_of, visible
from dreamprm_jax.models.kernels.dual_attention import TARGETS, Target, dual_attention

B, T, N, K, H = 2, 128, 4, 2, 64
SEGMENTS = np.array([[1] * 50 + [2] * 45 + [3] * 15 + [0] * 18, [1] * 128])
BRANCHES = np.array([[0] * 30 + [1] * 20 + [0] * 10 + [1] * 15 + [2] * 20 + [0] * 33, [0] * 50 + [1] * 35 + [2] * 43])
LAYOUTS = {
    "causal": Layout(),
    "packed": Layout(jnp.asarray(SEGMENTS)),
    "shared prefix": Layout(jnp.asarray(SEGMENTS), jnp.asarray(BRANCHES)),
    "trees": Layout(reach=reach_of(Layout(jnp.asarray(SEGMENTS), jnp.asarray(BRANCHES)))),
}


def arrays(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = [(B, T, heads, H) for heads in (N, K, K)]
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def reach(layout):
    found = reach_of(layout)
    return jnp.full((B, T), T, jnp.int32) if found is None else found


def test_the_reach_says_what_ids_say():
    segments, branches = SEGMENTS[:, :, None], BRANCHES[:, :, None]
    same_segment = segments == SEGMENTS[:, None]
    same_branch = (branches == BRANCHES[:, None]) | (BRANCHES[:, None] == 0)
    causal = np.tril(np.ones((T, T), bool))
    packed, shared = (visible(reach_of(LAYOUTS[name]), T) for name in ("packed", "shared prefix"))
    np.testing.assert_array_equal(packed, causal & same_segment)
    np.testing.assert_array_equal(shared, causal & same_segment & same_branch)
    np.testing.assert_array_equal(visible(None, T)[0], causal)


@pytest.mark.parametrize(("name", "chunk"), [("causal", 30), ("shared prefix", 16)])
def test_key_prefixes_change_rounding_alone(name, chunk, monkeypatch):
    layout, (primals, tangents) = LAYOUTS[name], (arrays(), arrays(1))

    def both(*x):
        return jax.jvp(lambda *x: chunked_attention(*x, layout, chunk), x, tangents)

    grouped = jax.jit(both)(*primals)
    monkeypatch.setattr(attention, "PREFIXES", 1)
    whole = jax.jit(lambda *x: both(*x))(*primals)
    expected = jax.jit(lambda *x: jax.jvp(lambda *y: einsum_attention(*y, layout), x, tangents))(*primals)
    for found, one, reference in zip(grouped, whole, expected, strict=True):
        np.testing.assert_allclose(found, one, rtol=0, atol=4e-6)
        np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("backend", "block"), [("tpu", (32, 64)), ("gpu", (64, 32))])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_dual_kernel_is_the_forward_mode_derivative(name, backend, block):
    layout, primals, tangents = LAYOUTS[name], arrays(), arrays(1)
    target = Target(backend, block, interpret=True)
    with jax.default_matmul_precision("highest"):
        expected = jax.jvp(lambda *x: einsum_attention(*x, layout), primals, tangents)
        found = jax.jvp(lambda *x: dual_attention(*x, reach(layout), target), primals, tangents)
        alone = dual_attention(*primals, reach(layout), target)
    for one, other in zip(found, expected, strict=True):
        assert float(jnp.abs(one - other).max()) <= 1e-6 * max(1.0, float(jnp.abs(other).max()))
    np.testing.assert_allclose(alone, expected[0], rtol=0, atol=2e-6)


def test_the_dual_kernel_survives_what_training_wraps_around_it():
    """A scan over rematerialized layers, a jvp in the parameters, and a gradient in phi, which only the loss uses."""
    primals, target = arrays(), Target("tpu", (64, 64), interpret=True)
    attend = {
        "dual": lambda *x: dual_attention(*x, reach(LAYOUTS["packed"]), target),
        "plain": lambda *x: einsum_attention(*x, LAYOUTS["packed"]),
    }

    def mixed(form, scale, phi):
        def loss(scale, phi):
            @jax.checkpoint
            def layer(x, factor):
                return x + form(factor * x, *primals[1:]), None

            out, _ = jax.lax.scan(layer, primals[0], scale)
            return jnp.mean(jnp.tanh(out) * phi)

        return jax.grad(lambda phi: jax.jvp(lambda s: loss(s, phi), (scale,), (jnp.ones_like(scale),))[1])(phi)

    scale, phi = jnp.asarray([1.0, 0.5]), jnp.linspace(0, 1, H)
    found, expected = (jax.jit(functools.partial(mixed, form))(scale, phi) for form in attend.values())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["packed"])
@pytest.mark.parametrize("form", ["splash", "triton"])
def test_kernels_with_a_backward_pass(form, name):
    layout, primals = LAYOUTS[name], arrays()
    cotangent = jnp.asarray(np.random.default_rng(2).standard_normal((B, T, N, H)), jnp.float32)
    kernel = fused.KERNELS[form](primals[0], "tpu" if form == "splash" else "gpu", layout, interpret=True)
    value, pull = jax.vjp(lambda *x: kernel(*x, reach(layout)), *primals)
    expected, plain = jax.vjp(lambda *x: einsum_attention(*x, layout), *primals)
    along = jax.linearize(lambda *x: kernel(*x, reach(layout)), *primals)[1](*arrays(1))
    moved = jax.jvp(lambda *x: einsum_attention(*x, layout), primals, arrays(1))[1]
    np.testing.assert_allclose(along, moved, rtol=0, atol=3e-5)
    np.testing.assert_allclose(value, expected, rtol=0, atol=3e-6)
    for found, reference in zip(pull(cotangent), plain(cotangent), strict=True):
        np.testing.assert_allclose(found, reference, rtol=0, atol=3e-5)


@pytest.mark.parametrize("device", ["tpu", "gpu"])
@pytest.mark.parametrize("derivative", ["once", "forward", "none"])
def test_the_chosen_kernels_lower_for_their_device(device, derivative):
    """Finds operations that Pallas cannot lower. Errors of the device's own compiler can only be found with it."""
    primals = tuple(jax.ShapeDtypeStruct((B, 1024, heads, 128), jnp.bfloat16) for heads in (N, K, K))
    segments = jax.ShapeDtypeStruct((B, 1024), jnp.int32)
    form = fused.choose("auto", derivative, device)

    def run(segments, *x):
        layout = Layout(segments)
        kernel = fused.KERNELS[form](x[0], device, layout)
        apply = lambda *x: kernel(*x, reach_of(layout))  # noqa: E731
        if derivative == "once":
            return jax.grad(lambda *x: apply(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2))(*x)
        return jax.jvp(apply, x, x) if derivative == "forward" else apply(*x)

    platform = {"tpu": "tpu", "gpu": "cuda"}[device]
    text = jax.jit(run).trace(segments, *primals).lower(lowering_platforms=(platform,)).as_text()
    assert {"tpu": "tpu_custom_call", "gpu": "triton"}[device] in text


def test_choices():
    assert fused.choose("auto", "once", "tpu") == "splash"
    assert fused.choose("auto", "forward", "gpu") == "dual"
    assert fused.choose("cudnn", "once", "gpu") == "cudnn"
    assert fused.choose("cudnn", "forward", "gpu") == "dual"
    assert fused.choose("splash", "any", "tpu") == "chunked"
    assert fused.choose("auto", "once", "cpu") == "chunked"
    assert {fused.choose("einsum", derivative, "tpu") for derivative in ("any", "once", "forward")} == {"einsum"}


def test_shapes_that_a_kernel_does_not_take_go_by_the_plain_form():
    query = jnp.zeros((1, 100, 4, 64))
    assert all(make(query, device, Layout()) is None for device in TARGETS for make in fused.KERNELS.values())
    odd = jnp.zeros((1, 256, 4, 24))
    assert fused._dual(odd, "gpu", Layout()) is None
    trees = LAYOUTS["trees"]
    assert fused._splash(arrays()[0], "tpu", trees) is None
    assert fused._dual(arrays()[0], "tpu", trees) is not None
    found = fused.attention(query, query[:, :, :2], query[:, :, :2], Layout(), "splash", 32, "once")
    assert found.shape == query.shape


@pytest.mark.parametrize("length", [fused.SHORT, fused.SHORT + 1, 500, 600])
def test_long_rows_on_a_cpu_go_in_chunks_and_short_ones_at_once(length):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = tuple(jax.random.normal(key, (1, length, heads, 8)) for key, heads in zip(keys, (4, 2, 2), strict=True))
    layout = Layout((jnp.arange(length)[None] >= length // 3).astype(jnp.int32) + 1)

    def total(kind, *inputs):
        return jnp.sum(jnp.sin(fused.attention(*inputs, layout, kind, 256)))

    def gradient(kind):
        return jax.value_and_grad(functools.partial(total, kind), argnums=(0, 1, 2))

    for one, other in zip(*(jax.tree.leaves(gradient(kind)(*inputs)) for kind in ("auto", "einsum")), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    matrix = f"f32[1,2,2,{length},{length}]"  # all scores at once
    assert (matrix in str(jax.make_jaxpr(gradient("auto"))(*inputs))) == (length <= fused.SHORT)


def test_interpreted_targets_are_the_real_ones():
    assert dataclasses.replace(TARGETS["tpu"], interpret=True).blocks(4096) == (512, 512)
    assert TARGETS["tpu"].blocks(1536) == (512, 512)
    assert TARGETS["gpu"].blocks(96) == (32, 32)
