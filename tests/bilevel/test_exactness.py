"""Compares the mixed method with jax.grad through the unrolled steps and with finite differences of the whole chain."""

from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.bilevel import MetaGradientResult, make_meta_gradient, merge, optimizers, partition

TOLERANCE = {"float64": 1e-9, "float32": 2e-6}


def mixed_and_reverse(name: str, unroll: int, lora: bool, run: Any) -> tuple[MetaGradientResult, ...]:
    """The results of both methods from the same warm state."""
    optimizer = toy.OPTIMIZERS[name]()
    params, frozen = partition(toy.params(), toy.is_lora) if lora else (toy.params(), None)
    arguments = (params, toy.warm_state(optimizer, params), toy.phi(), toy.inner_batch(unroll), toy.outer_batch())
    methods = (
        make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, method=method) for method in ("mixed", "reverse")
    )
    return tuple(run(method)(*arguments, frozen=frozen) for method in methods)


def assert_same(mixed: MetaGradientResult, reverse: MetaGradientResult, tolerance: float) -> None:
    """Compares every part of the result."""
    assert float(reverse.norms.hypergradient) > 1e-6
    assert toy.relative_error(mixed.hypergradient, reverse.hypergradient) < tolerance
    assert toy.relative_error(mixed.params, reverse.params) < tolerance
    assert toy.relative_error(mixed.norms, reverse.norms) < tolerance
    assert float(mixed.outer_loss) == pytest.approx(float(reverse.outer_loss), rel=tolerance)
    assert float(mixed.inner_loss) == pytest.approx(float(reverse.inner_loss), rel=tolerance)


@pytest.mark.parametrize("unroll", [1, 2, 5])
def test_mixed_equals_reverse(unroll: int) -> None:
    """Compiled, with frozen leaves, in both precisions. benchmarks/hypergradient_optimizers.py tries all optimizers."""
    for dtype, tolerance in TOLERANCE.items():
        with jax.enable_x64(dtype == "float64"):
            mixed, reverse = mixed_and_reverse("clip+adamw+schedule", unroll, lora=True, run=jax.jit)
            assert mixed.hypergradient.dtype == dtype
            assert_same(mixed, reverse, tolerance)


@pytest.mark.parametrize("unroll", [1, 2])
@pytest.mark.parametrize("name", toy.OPTIMIZERS)
def test_mixed_equals_reverse_uncompiled(name: str, unroll: int) -> None:
    """The same computation without compilation, which is fast enough to test every optimizer in every run."""
    with jax.enable_x64(True), jax.disable_jit():
        mixed, reverse = mixed_and_reverse(name, unroll, lora=False, run=lambda method: method)
        assert_same(mixed, reverse, TOLERANCE["float64"])


@pytest.mark.parametrize("unroll", [1, 2])
def test_finite_difference_of_the_whole_chain(unroll: int) -> None:
    """Central differences of L_out(theta_K(phi)) itself, in a random direction of phi, in float64."""
    optimizer = toy.OPTIMIZERS["clip+adamw+schedule"]()
    with jax.enable_x64(True):
        state = toy.warm_state(optimizer, toy.params())
        run = jax.jit(make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer))

        def at(phi: jax.Array) -> MetaGradientResult:
            return run(toy.params(), state, phi, toy.inner_batch(unroll), toy.outer_batch())

        direction = jnp.asarray(np.random.default_rng(5).normal(size=toy.STEPS))
        step = 1e-4
        difference = (at(toy.phi() + step * direction).outer_loss - at(toy.phi() - step * direction).outer_loss) / (
            2 * step
        )
        assert float(at(toy.phi()).hypergradient @ direction) == pytest.approx(float(difference), rel=1e-6)


def test_derivative_of_adam_in_closed_form() -> None:
    """Derivatives in the gradient and both moments equal optax's chain rule, and the closed form at g = v = 0."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), jax.disable_jit():
        gradient, m, cotangent = (jnp.asarray(rng.normal(size=7)) for _ in range(3))
        v, zero = jnp.asarray(rng.uniform(0.1, 1.0, 7)), jnp.zeros(7)

        def derivatives(make: Any, *point: jax.Array) -> Any:
            def update(gradient: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
                state = optax.ScaleByAdamState(jnp.asarray(3, jnp.int32), m, v)
                return make(0.9, 0.98, 1e-3).update(gradient, state)[0]

            return jax.vjp(update, *point)[1](cotangent)

        ours, theirs = (derivatives(make, gradient, m, v) for make in (optimizers.scale_by_adam, optax.scale_by_adam))
        assert toy.relative_error(ours, theirs) < 1e-12
        # The update is m' / c1 / eps, with derivatives (1 - b1) / (c1 eps) and b1 / (c1 eps), where c1 = 1 - b1^4.
        by_gradient, by_m, by_v = derivatives(optimizers.scale_by_adam, zero, zero, zero)
        np.testing.assert_allclose(by_gradient, 0.1 / (1 - 0.9**4) / 1e-3 * cotangent, rtol=1e-12)
        np.testing.assert_allclose(by_m, 0.9 / (1 - 0.9**4) / 1e-3 * cotangent, rtol=1e-12)
        np.testing.assert_array_equal(by_v, zero)


@pytest.mark.parametrize("method", ["mixed", "reverse"])
def test_finite_at_exactly_zero_gradients(method: str) -> None:
    """LoRA's A while B is zero: finite with eps_root and with the zero-safe form; optax's default gives nan."""
    params = toy.params()
    params["lora"]["b"] = jnp.zeros_like(params["lora"]["b"])
    trainable, frozen = partition(params, toy.is_lora)
    results = {}
    for name, optimizer in {
        "default": optax.adamw(0.05),
        "eps_root": optax.adamw(0.05, eps_root=1e-16),
        "safe": optimizers.adamw(0.05),
    }.items():
        run = jax.jit(make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, method=method))
        results[name] = run(
            trainable, optimizer.init(trainable), toy.phi(), toy.inner_batch(), toy.outer_batch(), frozen=frozen
        )
    assert np.isnan(results["default"].hypergradient).any()
    for name in ("eps_root", "safe"):
        assert np.isfinite(results[name].hypergradient).all()
        assert float(results[name].norms.hypergradient) > 0
    # The update equals that of optax.
    assert toy.relative_error(results["safe"].params, results["default"].params) < 1e-6


def test_finite_where_the_whole_gradient_is_zero() -> None:
    """All examples are at their optimum. Clipping in optax then divides by a zero norm; ours does not."""
    optimizer = optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adamw(0.05))

    def inner_loss(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        return jnp.mean(jnp.square(params["w"] * batch - jax.nn.sigmoid(phi) * batch))

    def outer_loss(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(params["w"] * batch - 1.0))

    params = {"w": jnp.full(4, 0.5)}
    result = jax.jit(make_meta_gradient(inner_loss, outer_loss, optimizer))(
        params, optimizer.init(params), jnp.zeros(4), jnp.ones((1, 1, 4)), jnp.ones((1, 4))
    )
    assert float(result.norms.inner_gradient) == 0.0
    # theta' = theta - 0.05 g / eps at g = 0; dg/dphi = -(2/4) sigmoid'(0) = -1/8;
    # dL_out/dtheta' = (2/4) (0.5 - 1) = -1/4
    np.testing.assert_allclose(result.hypergradient, -0.25 * 0.05 / 1e-8 / 8, rtol=1e-5)


def test_bfloat16_points_the_same_way() -> None:
    """Losses in bfloat16 on float32 parameters: the cosine similarity with the float32 hypergradient."""
    optimizer = toy.OPTIMIZERS["adamw"]()

    def half(loss: Any) -> Any:
        def wrapped(params: Any, *rest: Any) -> jax.Array:
            def cast(leaf: jax.Array) -> jax.Array:
                return leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 and leaf.ndim > 1 else leaf

            *others, batch = rest
            return loss(jax.tree.map(cast, params), *others, jax.tree.map(cast, batch)).astype(jnp.float32)

        return wrapped

    params = toy.params()
    arguments = (params, toy.warm_state(optimizer, params), toy.phi(), toy.inner_batch(rows=64), toy.outer_batch(64))
    full, low = (
        jax.jit(make_meta_gradient(inner, outer, optimizer))(*arguments).hypergradient
        for inner, outer in (
            (toy.inner_loss, toy.outer_loss),
            (half(toy.inner_loss), half(toy.outer_loss)),
        )
    )
    assert 0.999 <= toy.cosine(low, full) < 1.0 - 1e-9


def test_approximations_are_what_they_say() -> None:
    """With SGD at K = 1, finite_difference and first_order agree with each other, and nearly with the exact result."""
    optimizer = optax.sgd(1.0)
    with jax.enable_x64(True):
        params = toy.params()
        results = {
            method: jax.jit(make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, method=method))(
                params, optimizer.init(params), toy.phi(), toy.inner_batch(), toy.outer_batch()
            ).hypergradient
            for method in ("mixed", "finite_difference", "first_order")
        }
        assert toy.relative_error(results["finite_difference"], results["first_order"]) < 1e-3
        assert 0.9 < toy.cosine(results["first_order"], results["mixed"]) < 1.0 - 1e-6
        # At the same point, both are equal: the rate is so small that theta' = theta.
        slow = optax.sgd(1e-9)
        exact, first = (
            jax.jit(make_meta_gradient(toy.inner_loss, toy.outer_loss, slow, method=method))(
                params, slow.init(params), toy.phi(), toy.inner_batch(), toy.outer_batch()
            ).hypergradient
            for method in ("mixed", "first_order")
        )
        assert toy.relative_error(exact, 1e-9 * first) < 1e-6


def test_merge_undoes_partition() -> None:
    trainable, frozen = partition(toy.params(), toy.is_lora)
    assert sorted(map(len, (jax.tree.leaves(trainable), jax.tree.leaves(frozen)))) == [2, 3]
    assert toy.relative_error(merge(trainable, frozen), toy.params()) == 0.0
    with pytest.raises(ValueError, match="bias: held by both"):
        merge(toy.params(), frozen)
