"""Cotangents of (params, opt_state), checkpoints, extra arguments, evaluation params, vmap, and reverse over mixed."""

from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from dreamprm_jax.bilevel import HypergradientWarning, MetaGradientResult, Point, exact, make_meta_gradient, make_replay
from dreamprm_jax.bilevel.checkpoints import START, default_slots, schedule
from dreamprm_jax.bilevel.problem import Data, Problem, uniform

TIGHT = 1e-9
LEARNED_RATE = optax.inject_hyperparams(optax.adamw)(learning_rate=0.05, weight_decay=0.1, eps_root=1e-16)


def call(optimizer: Any, unroll: int, inner: Any = toy.small_inner, phi: Any = None, **options: Any) -> Any:
    """The compiled result on the small problem, from the state after three real steps."""
    given = {"end_gradient": options.pop("end_gradient", None)}
    usual, batch, held = toy.small_data(unroll)
    run = make_meta_gradient(inner, toy.small_outer, optimizer, **options)
    compiled = jax.jit(lambda point, phi, given: run(*point, phi, batch, held, **given))
    return compiled(warmed(optimizer), usual if phi is None else phi, given)


def warmed(optimizer: Any) -> Point:
    """The point after three steps on random gradients."""
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    point = Point(toy.small_params(), optimizer.init(toy.small_params()))
    for step in range(3):
        rng = np.random.default_rng(step)
        gradient = jax.tree.map(lambda leaf, rng=rng: jnp.asarray(0.1 * rng.normal(size=leaf.shape)), point.params)
        updates, state = update(gradient, *point[::-1], value=jnp.asarray(0.7), grad=gradient)
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
    """With given end cotangents, mixed equals reverse and agrees with a finite difference in the learning rate."""
    with jax.enable_x64(True):
        params, state = warmed(LEARNED_RATE)
        noise = jax.tree.map(lambda leaf: 0.01 * jnp.ones_like(leaf), Point(params, state))
        options = {"start_gradient": True, "end_gradient": noise}
        mixed, reverse = (call(LEARNED_RATE, unroll, method=m, **options) for m in ("mixed", "reverse"))
        same(mixed, reverse)
        assert jax.tree.structure(mixed.start_gradient.opt_state) == jax.tree.structure(mixed.opt_state)
        phi, batch, held = toy.small_data(unroll)
        run = jax.jit(make_meta_gradient(toy.small_inner, toy.small_outer, LEARNED_RATE, start_gradient=True))

        def at(rate: float) -> MetaGradientResult:
            moved = state._replace(hyperparams=state.hyperparams | {"learning_rate": jnp.asarray(rate)})
            return run(params, moved, phi, batch, held)

        slope = float(at(0.05).start_gradient.opt_state.hyperparams["learning_rate"])
        assert slope != 0
        difference = float(at(0.05 + 1e-6).outer_loss - at(0.05 - 1e-6).outer_loss) / 2e-6
        assert slope == pytest.approx(difference, rel=1e-5)


def test_chained_windows_equal_one_long_window() -> None:
    """The start gradient of the second window is the end gradient of the first."""
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        phi, batches, outer = toy.small_data(4)
        one, two = batches[:2], batches[2:]
        run = jax.jit(make_meta_gradient(toy.small_inner, toy.small_outer, optimizer, start_gradient=True))
        start = warmed(optimizer)
        whole = run(*start, phi, batches, outer)
        middle = run(*start, phi, one, outer, do_meta=jnp.array(False))
        late = run(middle.params, middle.opt_state, phi, two, outer)
        zero = make_meta_gradient(toy.small_inner, lambda params, batch: 0.0 * params["scale"][0], optimizer)
        early = jax.jit(zero)(*start, phi, one, outer, end_gradient=late.start_gradient)
        total = early.hypergradient + late.hypergradient
        assert toy.relative_error(total, whole.hypergradient) < TIGHT


@pytest.mark.parametrize(
    "make", [toy.OPTIMIZERS["adamw"], lambda: optax.polyak_sgd(scaling=0.1)], ids=["adamw", "polyak"]
)
def test_reusing_the_forward_pass_does_not_change_the_result(make: Any) -> None:
    with jax.enable_x64(True):
        same(call(make(), 1, reuse_forward=True), call(make(), 1, method="reverse"))


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 5, "gradients"])
def test_checkpoints_do_not_change_the_result(checkpoints: Any) -> None:
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        options = {"start_gradient": True}
        same(call(optimizer, 5, checkpoints=checkpoints, **options), call(optimizer, 5, method="reverse", **options))


def test_gradients_are_stored_where_they_are_smaller_than_the_activations() -> None:
    """At K = 8, gradients are not stored for few rows, regardless of the size of the frozen weights."""

    def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.tanh(x @ params["kernel"]) @ params["base"] - phi))

    params, frozen = {"kernel": jnp.ones((3, 4)), "base": None}, {"kernel": None, "base": jnp.ones((4, 10))}
    problem = Problem(inner, uniform(inner, False, False, frozen), inner, optax.sgd(0.1))
    for rows, expected in ((1, default_slots(8)), (1000, "gradients")):
        data = Data(jnp.ones((8, 1, rows, 3)), None, None, None)
        assert exact.default_checkpoints(problem, Point(params, ()), jnp.zeros(10), data) == expected
    # tanh, its derivative, and two times the error
    assert problem.residual_bytes(params, jnp.zeros(10), jnp.ones((1, 1, 3)), None) <= 4 * (4 + 4 + 10)


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 32])
def test_a_schedule_visits_every_step_backward(steps: int) -> None:
    """The schedule reads only what it stored, and takes the number of steps that it states."""
    for slots in range(steps + 1):
        plan, stored = schedule(steps, slots), {}
        for step, slot in enumerate(plan.writes):
            stored[slot] = step
        taken = steps
        for index, sweep in enumerate(plan.sweeps):
            assert sweep.first == (0 if sweep.read == START else stored[sweep.read])
            for step, slot in enumerate(sweep.writes, sweep.first):
                stored[slot] = step
                taken += 1
            assert step == steps - 1 - index
        assert max(stored) < max(slots, 1)
        assert taken == plan.steps
    # Griewank's count for 5 stored points and the start: C(8, 2) = 28 < 33 <= C(9, 3) = 84
    if steps == 32:
        assert default_slots(32) == 5
        assert schedule(32, 5).steps == 95
        assert schedule(32, 31).steps == 64


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
    """The loss depends on phi, and the update depends on the loss."""
    with jax.enable_x64(True):
        same(*(call(make(), unroll, method=method, start_gradient=True) for method in ("mixed", "reverse")))


def test_an_optimizer_that_evaluates_the_loss_is_refused_by_mixed() -> None:
    with pytest.raises(ValueError, match="method='mixed' cannot differentiate"):
        jax.eval_shape(
            make_meta_gradient(toy.small_inner, toy.small_outer, optax.lbfgs()),
            toy.small_params(),
            optax.lbfgs().init(toy.small_params()),
            *toy.small_data(1),
        )


@pytest.mark.parametrize("unroll", [1, 2])
def test_schedule_free_is_read_at_its_evaluation_params(unroll: int) -> None:
    optimizer = contrib.schedule_free_adamw(0.05, eps=1e-3)
    with jax.enable_x64(True):
        options = {"evaluation_params": contrib.schedule_free_eval_params, "start_gradient": True}
        same(*(call(optimizer, unroll, method=method, **options) for method in ("mixed", "reverse")))


@pytest.mark.parametrize("unroll", [1, 2])
def test_tangent_loss_spares_a_kernel_without_forward_mode(unroll: int) -> None:
    @jax.custom_vjp
    def kernel(x: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    kernel.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda y, g: (g * (1 - y * y),))

    def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(kernel(x @ params["kernel"]) * params["scale"] - phi))

    def tangent(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.tanh(x @ params["kernel"]) * params["scale"] - phi))

    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        with pytest.raises(TypeError, match="custom_vjp"):
            call(optimizer, unroll, inner)
        same(call(optimizer, unroll, inner, tangent_loss=tangent), call(optimizer, unroll, tangent, method="reverse"))


def test_vmap_over_phi_and_reverse_mode_through_the_hypergradient() -> None:
    """At K = 2, and at K = 3 with a schedule of stored points."""
    optimizer = toy.OPTIMIZERS["momentum"]()
    with jax.enable_x64(True):
        start, (phi, batch, held) = warmed(optimizer), toy.small_data(3)
        phis = jnp.stack([phi, phi + 0.1])

        def of(phi: jax.Array, unroll: int = 2, **options: Any) -> jax.Array:
            run = make_meta_gradient(toy.small_inner, toy.small_outer, optimizer, **options)
            return run(*start, phi, batch[:unroll], held).hypergradient

        many, alone = jax.jit(jax.vmap(of))(phis), jax.jit(of)
        for row, phi in zip(many, phis, strict=True):
            assert toy.relative_error(row, alone(phi)) < TIGHT

        def squares(unroll: int, **options: Any) -> jax.Array:
            return jax.jit(jax.grad(lambda phi: jnp.sum(jnp.square(of(phi, unroll, **options)))))(phis[0])

        assert toy.relative_error(squares(2), squares(2, method="reverse")) < 1e-7
        assert toy.relative_error(squares(3, checkpoints=1), squares(3, method="reverse")) < 1e-7


@pytest.mark.parametrize("steps", [1, 7])
def test_replay_equals_the_unrolled_window(steps: int) -> None:
    """Replay stores O(log K) points, and the data are a function of the step number."""
    optimizer = toy.OPTIMIZERS["adamw"]()
    with jax.enable_x64(True):
        start, (phi, batches, outer) = warmed(optimizer), toy.small_data(steps)
        replay = make_replay(toy.small_inner, toy.small_outer, optimizer, lambda step: batches[step])
        found = replay(*start, phi, outer, steps)
        run = make_meta_gradient(
            toy.small_inner, toy.small_outer, optimizer, start_gradient=True, checkpoints="gradients"
        )
        same_window = jax.jit(run)(*start, phi, batches, outer)
        assert toy.relative_error(found.hypergradient, same_window.hypergradient) < TIGHT
        assert toy.relative_error(floats(found.start_gradient), floats(same_window.start_gradient)) < TIGHT
        assert found.stored <= 1 + np.ceil(np.log2(steps))
        assert found.inner_steps <= (1 + np.log2(steps)) * steps + 1
        with pytest.raises(ValueError, match=r"batch\(0\) has shape \(\): expected \[M, B, ...\]"):
            make_replay(toy.small_inner, toy.small_outer, optimizer, lambda step: jnp.ones(()))(*start, phi, outer, 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: optax.lion(0.1), "only through its sign"),
        (lambda: optax.radam(0.1), "not finite at steps 2 to 3"),
        (lambda: optax.adamw(optax.linear_schedule(0.0, 0.1, 5)), None),
        (lambda: optax.sgd(0.1), None),
        (lambda: optax.lbfgs(0.1, memory_size=2, linesearch=None), None),
    ],
    ids=["lion", "radam", "adamw", "sgd", "lbfgs"],
)
def test_zero_and_nan_by_nature_are_named_once(make: Any, reason: str | None, recwarn: Any) -> None:
    optimizer = make()
    run = make_meta_gradient(toy.small_inner, toy.small_outer, optimizer)
    for _ in range(2):
        jax.eval_shape(run, toy.small_params(), optimizer.init(toy.small_params()), *toy.small_data(1))
    seen = [str(w.message) for w in recwarn if issubclass(w.category, HypergradientWarning)]
    assert len(seen) == (reason is not None)
    assert reason is None or reason in seen[0]
