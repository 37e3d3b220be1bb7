"""Cotangents of (params, opt_state), segments, extra arguments, evaluation params, vmap, reverse over mixed."""

from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from dreamprm_jax.bilevel import HypergradientWarning, MetaGradientResult, Point, make_meta_gradient, make_replay

TIGHT = 1e-9
LEARNED_RATE = optax.inject_hyperparams(optax.adamw)(learning_rate=0.05, weight_decay=0.1, eps_root=1e-16)


def loss_with_phi(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
    """Its value depends on phi by more than the targets: for optimizers that read the loss."""
    return toy.inner_loss(params, phi, batch) + 0.1 * jnp.sum(jnp.square(phi))


def call(optimizer: Any, unroll: int, inner: Any = loss_with_phi, phi: Any = None, **options: Any) -> Any:
    """The result at the toy's usual point, from a state after three real steps."""
    end_gradient = options.pop("end_gradient", None)
    params, state = warmed(optimizer)
    run = make_meta_gradient(inner, toy.outer_loss, optimizer, **options)
    phi = toy.phi() if phi is None else phi
    return run(params, state, phi, toy.inner_batch(unroll), toy.outer_batch(), end_gradient=end_gradient)


def warmed(optimizer: Any) -> Point:
    """Three steps on random gradients."""
    point = Point(toy.params(), optimizer.init(toy.params()))
    for step in range(3):
        rng = np.random.default_rng(step)
        gradient = jax.tree.map(lambda leaf, rng=rng: jnp.asarray(0.1 * rng.normal(size=leaf.shape)), point.params)
        extra = {"value": jnp.asarray(0.7), "grad": gradient}
        update = optax.with_extra_args_support(optimizer).update
        updates, state = update(gradient, point.opt_state, point.params, **extra)
        point = Point(optax.apply_updates(point.params, updates), state)
    return point


def same(left: MetaGradientResult, right: MetaGradientResult) -> None:
    assert float(right.norms.hypergradient) > 1e-6
    assert toy.relative_error(left.hypergradient, right.hypergradient) < TIGHT
    assert toy.relative_error(left.params, right.params) < TIGHT
    assert float(left.inner_loss) == pytest.approx(float(right.inner_loss), rel=TIGHT)
    if right.start_gradient is not None:
        assert toy.relative_error(left.start_gradient.params, right.start_gradient.params) < TIGHT
        assert toy.relative_error(floats(left.start_gradient), floats(right.start_gradient)) < TIGHT


def floats(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


@pytest.mark.parametrize("unroll", [1, 2, 5])
def test_cotangents_of_the_start(unroll: int) -> None:
    """mixed = reverse = a finite difference by the learning rate, with cotangents of the end given."""
    with jax.enable_x64(True), jax.disable_jit():
        params, state = warmed(LEARNED_RATE)
        noise = jax.tree.map(lambda leaf: 0.01 * jnp.ones_like(leaf), Point(params, state))
        options = {"start_gradient": True, "end_gradient": noise}
        mixed, reverse = (call(LEARNED_RATE, unroll, method=m, **options) for m in ("mixed", "reverse"))
        same(mixed, reverse)
        assert jax.tree.structure(mixed.start_gradient.opt_state) == jax.tree.structure(mixed.opt_state)
        slope = call(LEARNED_RATE, unroll, start_gradient=True).start_gradient.opt_state.hyperparams["learning_rate"]
        assert float(slope) != 0

        def outer(rate: float) -> float:
            moved = state._replace(hyperparams=state.hyperparams | {"learning_rate": jnp.asarray(rate)})
            run = make_meta_gradient(loss_with_phi, toy.outer_loss, LEARNED_RATE, method="reverse")
            return float(run(params, moved, toy.phi(), toy.inner_batch(unroll), toy.outer_batch()).outer_loss)

        assert float(slope) == pytest.approx((outer(0.05 + 1e-6) - outer(0.05 - 1e-6)) / 2e-6, rel=1e-5)


def test_chained_windows_equal_one_long_window() -> None:
    """The start gradient of the second window is the end gradient of the first."""
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True), jax.disable_jit():
        batches, phi, outer = toy.inner_batch(5), toy.phi(), toy.outer_batch()
        one, two = (jax.tree.map(lambda leaf, s=s: leaf[s], batches) for s in (slice(0, 2), slice(2, 5)))
        run = make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, start_gradient=True)
        start = warmed(optimizer)
        whole = run(*start, phi, batches, outer)
        middle = run(*start, phi, one, outer, do_meta=False)
        late = run(middle.params, middle.opt_state, phi, two, outer)
        zero = make_meta_gradient(toy.inner_loss, lambda params, batch: 0.0 * params["bias"][0], optimizer)
        early = zero(*start, phi, one, outer, end_gradient=late.start_gradient)
        total = early.hypergradient + late.hypergradient
        assert toy.relative_error(total, whole.hypergradient) < TIGHT


@pytest.mark.parametrize("segment", [1, 2, 3, 5, None])
def test_segments_do_not_change_the_result(segment: int | None) -> None:
    optimizer = toy.OPTIMIZERS["clip+adamw+schedule"]()
    with jax.enable_x64(True):

        def both() -> Any:
            options = {"start_gradient": True}
            return call(optimizer, 5, segment=segment, **options), call(optimizer, 5, method="reverse", **options)

        same(*toy.quick_jit(both)())


@pytest.mark.parametrize("unroll", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.polyak_sgd(scaling=0.1),
        pytest.param(lambda: optax.lbfgs(0.1, memory_size=2, linesearch=None), marks=pytest.mark.slow),
        lambda: optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau(patience=1)),
        lambda: contrib.momo(0.1),
    ],
    ids=["polyak", "lbfgs", "plateau", "momo"],
)
def test_optimizers_that_read_the_loss(make: Any, unroll: int) -> None:
    """The loss itself depends on phi, and the update on the loss."""
    with jax.enable_x64(True), jax.disable_jit():
        same(*(call(make(), unroll, method=method, start_gradient=True) for method in ("mixed", "reverse")))


def test_an_optimizer_that_evaluates_the_loss_is_refused_by_mixed() -> None:
    with pytest.raises(ValueError, match="method='mixed' cannot differentiate"):
        jax.eval_shape(
            make_meta_gradient(toy.inner_loss, toy.outer_loss, optax.lbfgs()),
            toy.params(), optax.lbfgs().init(toy.params()), toy.phi(), toy.inner_batch(), toy.outer_batch(),
        )  # fmt: skip


@pytest.mark.parametrize("unroll", [1, 2])
def test_schedule_free_is_read_at_its_evaluation_params(unroll: int) -> None:
    optimizer = contrib.schedule_free_adamw(0.05, eps=1e-3)
    with jax.enable_x64(True), jax.disable_jit():
        options = {"evaluation_params": contrib.schedule_free_eval_params, "start_gradient": True}
        same(*(call(optimizer, unroll, method=method, **options) for method in ("mixed", "reverse")))


@pytest.mark.parametrize("unroll", [1, 2])
def test_tangent_loss_spares_a_kernel_without_forward_mode(unroll: int) -> None:
    @jax.custom_vjp
    def kernel(x: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    kernel.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda y, g: (g * (1 - y * y),))

    def inner(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        scores = kernel(batch["x"] @ params["dense"] + params["bias"]) @ params["head"]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, jax.nn.sigmoid(phi[batch["index"]])))

    def tangent(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        scores = jnp.tanh(batch["x"] @ params["dense"] + params["bias"]) @ params["head"]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, jax.nn.sigmoid(phi[batch["index"]])))

    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True), jax.disable_jit():
        with pytest.raises(TypeError, match="custom_vjp"):
            call(optimizer, unroll, inner)
        same(call(optimizer, unroll, inner, tangent_loss=tangent), call(optimizer, unroll, tangent, method="reverse"))


def test_vmap_over_phi_and_reverse_mode_through_the_hypergradient() -> None:
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        phis = jnp.stack([toy.phi(), toy.phi(9)])
        many = toy.quick_jit(jax.vmap(lambda phi: call(optimizer, 2, phi=phi).hypergradient))(phis)
        alone = toy.quick_jit(lambda phi: call(optimizer, 2, phi=phi).hypergradient)
        for row, phi in zip(many, phis, strict=True):
            assert toy.relative_error(row, alone(phi)) < TIGHT

        def size(phi: jax.Array, method: Any) -> jax.Array:
            return jnp.sum(jnp.square(call(optimizer, 2, phi=phi, method=method).hypergradient))

        ours, reference = (
            toy.quick_jit(jax.grad(lambda phi, m=m: size(phi, m)))(phis[0]) for m in ("mixed", "reverse")
        )
        assert toy.relative_error(ours, reference) < 1e-7


@pytest.mark.parametrize("steps", [1, 7])
def test_replay_equals_the_unrolled_window(steps: int) -> None:
    """In O(log K) stored points, the data a function of the step's number."""
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        batches, start = toy.inner_batch(steps), warmed(optimizer)
        replay = make_replay(
            toy.inner_loss, toy.outer_loss, optimizer, lambda step: jax.tree.map(lambda leaf: leaf[step], batches)
        )
        found = replay(*start, toy.phi(), toy.outer_batch(), steps)
        run = make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, start_gradient=True)
        same_window = toy.quick_jit(run)(*start, toy.phi(), batches, toy.outer_batch())
        assert toy.relative_error(found.hypergradient, same_window.hypergradient) < TIGHT
        assert toy.relative_error(floats(found.start_gradient), floats(same_window.start_gradient)) < TIGHT
        assert found.stored <= 1 + np.ceil(np.log2(steps))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: optax.lion(0.1), "only through its sign"),
        (lambda: optax.radam(0.1), "not finite at steps 2 to 3"),
        (lambda: optax.adamw(optax.linear_schedule(0.0, 0.1, 5)), None),
        (lambda: optax.sgd(0.1), None),
    ],
    ids=["lion", "radam", "adamw", "sgd"],
)
def test_zero_and_nan_by_nature_are_named_once(make: Any, reason: str | None, recwarn: Any) -> None:
    optimizer = make()
    run = make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer)
    for _ in range(2):
        jax.eval_shape(run, toy.params(), optimizer.init(toy.params()), toy.phi(), toy.inner_batch(), toy.outer_batch())
    seen = [str(w.message) for w in recwarn if issubclass(w.category, HypergradientWarning)]
    assert len(seen) == (reason is not None)
    assert reason is None or reason in seen[0]
