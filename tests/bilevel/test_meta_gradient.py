"""The meta-gradient function: accumulation, randomness, aux, skipping, shardings, memory (not exactness)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.bilevel import (
    CG,
    MetaGradientResult,
    make_meta_gradient,
    optimizers,
    partition,
    split_batch,
    stack_batches,
)

OPTIMIZER = toy.OPTIMIZERS["adamw"]()


def run(inner: Any = toy.inner_loss, outer: Any = toy.outer_loss, unroll: int = 1, **options: Any) -> Any:
    """The compiled function with its usual arguments, which keywords override."""
    compiled = jax.jit(make_meta_gradient(inner, outer, OPTIMIZER, **options))

    def call(**override: Any) -> MetaGradientResult:
        params = override.pop("params", toy.params())
        point = {
            "opt_state": toy.warm_state(OPTIMIZER, params),
            "meta_params": toy.phi(),
            "inner_batch": toy.inner_batch(unroll),
            "outer_batch": toy.outer_batch(),
        }
        return compiled(params, **(point | override))

    return call


@pytest.mark.parametrize("unroll", [1, 2])
def test_accumulation_gives_the_hypergradient_of_the_whole_batch(unroll: int) -> None:
    with jax.enable_x64(True):
        whole = run(unroll=unroll)()
        outer = split_batch(jax.tree.map(lambda leaf: leaf[0], toy.outer_batch()), 2)
        accumulated = run()(inner_batch=toy.split_inner(toy.inner_batch(unroll), 4), outer_batch=outer)
        for name in ("params", "opt_state", "hypergradient", "norms"):
            assert toy.relative_error(getattr(accumulated, name), getattr(whole, name)) < 1e-12, name
        assert float(accumulated.inner_loss) == pytest.approx(float(whole.inner_loss), rel=1e-12)
        assert float(accumulated.outer_loss) == pytest.approx(float(whole.outer_loss), rel=1e-12)


def test_split_batch_gives_every_device_a_share() -> None:
    batch = {"x": jnp.arange(6)}
    np.testing.assert_array_equal(split_batch(batch, 2)["x"], [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(ValueError, match=r"shape \(6,\) does not cut into 4"):
        split_batch(batch, 4)


def noisy_inner(params: Any, phi: jax.Array, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
    """A loss with dropout on the inputs. The mask is returned as aux."""
    mask = jax.random.bernoulli(key, 0.7, batch["x"].shape)
    return toy.inner_loss(params, phi, batch | {"x": batch["x"] * mask}), {"mask": mask}


def noisy_outer(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
    """A loss with noise on the inputs. One logit is returned as aux."""
    x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    return toy.outer_loss(params, batch | {"x": x}), {"logit": toy.logits(params, x)[0]}


@pytest.mark.parametrize("unroll", [1, 2])
def test_randomness_is_drawn_once(unroll: int) -> None:
    """The backward pass uses the same dropout masks as the forward pass, so the result equals that of reverse mode."""
    with jax.enable_x64(True):
        options = {"has_aux": True, "has_rng": True}
        arguments = {"inner_batch": toy.split_inner(toy.inner_batch(unroll), 2), "rng": jax.random.key(3)}
        mixed = run(noisy_inner, noisy_outer, **options)(**arguments)
        reverse = run(noisy_inner, noisy_outer, method="reverse", **options)(**arguments)
        assert toy.relative_error(mixed.hypergradient, reverse.hypergradient) < 1e-9
        masks = np.asarray(mixed.inner_aux["mask"])
        np.testing.assert_array_equal(masks, reverse.inner_aux["mask"])
        # Every inner step and micro-batch has its own key.
        assert masks.shape == (unroll, 2, 4, toy.FEATURES)
        flat = masks.reshape(-1, 4 * toy.FEATURES)
        assert len(np.unique(flat, axis=0)) == len(flat)
        assert float(mixed.outer_aux["logit"][0]) == pytest.approx(float(reverse.outer_aux["logit"][0]), rel=1e-9)


@pytest.mark.parametrize("method", ["mixed", "reverse"])
def test_do_meta_false_is_the_plain_step(method: str) -> None:
    call = run(method=method)
    skipped, done = call(do_meta=jnp.array(False)), call(do_meta=jnp.array(True))
    assert toy.relative_error(skipped.params, done.params) < 1e-6
    assert toy.relative_error(skipped.opt_state, done.opt_state) < 1e-6
    assert not skipped.hypergradient.any()
    assert done.hypergradient.any()
    assert float(skipped.outer_loss) == 0.0 < float(done.outer_loss)
    assert float(skipped.norms.outer_gradient) == 0.0 < float(done.norms.outer_gradient)
    assert float(skipped.norms.inner_gradient) == pytest.approx(float(done.norms.inner_gradient), rel=1e-5)


def test_a_loss_that_is_not_finite_shows_in_the_hypergradient() -> None:
    batch = toy.inner_batch()
    broken = run()(inner_batch=batch | {"x": batch["x"].at[0, 0, 0, 0].set(jnp.nan)})
    assert np.isnan(broken.hypergradient).all()
    assert np.isnan(broken.outer_loss)


def test_frozen_leaves_get_no_update_and_no_state() -> None:
    trainable, frozen = partition(toy.params(), toy.is_lora)
    result = run()(params=trainable, frozen=frozen)
    assert jax.tree.structure(result.params) == jax.tree.structure(trainable)
    sizes = {leaf.size for leaf in jax.tree.leaves(result.opt_state)}
    assert toy.FEATURES * toy.HIDDEN not in sizes
    assert result.hypergradient.any()


def test_what_was_asked_wrongly_is_named() -> None:
    with pytest.raises(ValueError, match="method='magic': must be one of mixed, reverse"):
        make_meta_gradient(toy.inner_loss, toy.outer_loss, OPTIMIZER, method="magic")  # type: ignore[arg-type]
    for options, message in (
        ({"checkpoints": -1}, "checkpoints=-1"),
        ({"checkpoints": "all"}, "checkpoints='all'"),
        ({"method": "sama", "start_gradient": True}, "only mixed and reverse"),
        ({"method": "mixed", "solver": CG()}, "only method='implicit'"),
    ):
        with pytest.raises(ValueError, match=message):
            make_meta_gradient(toy.inner_loss, toy.outer_loss, OPTIMIZER, **options)
    with pytest.raises(ValueError, match=r"inner_batch\['index'\] has shape \(8,\): expected \[K, M, B, ...\]"):
        run()(inner_batch=toy.inner_batch() | {"index": jnp.zeros(8, int)})
    with pytest.raises(ValueError, match=r"outer_batch\['y'\] has shape \(2, 4\): expected \[M, B, ...\]"):
        run()(outer_batch=toy.outer_batch() | {"y": jnp.zeros((2, 4))})
    with pytest.raises(ValueError, match="only method='implicit' uses it"):
        run()(solution=toy.params())
    with pytest.raises(ValueError, match=r"params\['step'\] is int32: every leaf must be floating"):
        run()(params=toy.params() | {"step": jnp.array(3)})
    with pytest.raises(ValueError, match="must return a scalar, got shape"):
        run(outer=lambda params, batch: toy.logits(params, batch["x"]))()
    with pytest.raises(ValueError, match="pass rng"):
        run(noisy_inner, noisy_outer, has_aux=True, has_rng=True)()
    with pytest.raises(ValueError, match=r"pass has_aux=True; got a value of shapes \(\(\), {}\)"):
        run(outer=lambda params, batch: (toy.outer_loss(params, batch), {}))()
    with pytest.raises(ValueError, match=r"has_aux=True: a loss must return \(scalar, aux\)"):
        run(has_aux=True)()
    with pytest.raises(ValueError, match="must be an optax"):
        make_meta_gradient(toy.inner_loss, toy.outer_loss, optax.adam)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outer_batch has no leaves"):
        run()(outer_batch=())
    with pytest.raises(ValueError, match="no batches"):
        stack_batches([])


def test_numpy_arrays_and_python_numbers_without_jit() -> None:
    """A scalar problem by hand, uncompiled: two steps w' = w - 0.1 d/dw mean (w - phi x)^2, with the outer loss w''."""
    x, optimizer = np.ones((2, 1, 3), np.float32), optax.sgd(0.1)
    run = make_meta_gradient(
        lambda w, phi, x: ((w - phi * x) ** 2).mean(), lambda w, x: (w * x).mean(), optimizer, start_gradient=True
    )
    result = run(0.0, optimizer.init(0.0), 0.5, x, x[0])
    # w'' = 0.64 w + 0.36 phi
    np.testing.assert_allclose(
        (result.params, result.hypergradient, result.start_gradient.params), (0.18, 0.36, 0.64), rtol=1e-6
    )


def test_shardings_are_kept() -> None:
    """FSDP 4 x tensor 2 on eight fake devices, auto and explicit axes: values agree to 1e-5; results are sharded."""
    script = Path(__file__).with_name("sharded_hypergradient.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["case"] for report in reports] == [
        f"{kind}, K = {unroll}" for unroll in (1, 2) for kind in ("Auto", "Explicit")
    ]
    for report in reports:
        assert report["devices"] == 8
        assert report["hypergradient_error"] < 1e-5, report
        assert report["params_error"] < 1e-5, report
        assert report["dense"] == report["moment"] == "('fsdp', 'tensor')", report
        assert report["hypergradient"] == "('fsdp',)", report


def test_states_of_flax_nnx() -> None:
    """An nnx.State as params, also split by ``partition``: equal to the same network with a dict of params."""
    from flax import nnx

    model = nnx.Linear(toy.FEATURES, 1, rngs=nnx.Rngs(0))
    definition, params, rest = nnx.split(model, nnx.Param, ...)
    targets, batch = jnp.linspace(-1.0, 1.0, 8), toy.inner_batch()["x"]

    def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(nnx.merge(definition, params, rest)(x)[:, 0] - phi))

    def outer(params: Any, x: jax.Array) -> jax.Array:
        return inner(params, jnp.zeros(8), x)

    def in_dict(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square((x @ params["kernel"] + params["bias"])[:, 0] - phi))

    whole = run(inner, outer)(params=params, meta_params=targets, inner_batch=batch, outer_batch=batch[0])
    assert isinstance(whole.params, nnx.State)
    values = {name: params[name][...] for name in ("kernel", "bias")}
    plain = run(in_dict, lambda params, x: in_dict(params, jnp.zeros(8), x))(
        params=values, meta_params=targets, inner_batch=batch, outer_batch=batch[0],
        opt_state=jax.tree.unflatten(  # warm_state draws values in leaf order
            jax.tree.structure(OPTIMIZER.init(values)), jax.tree.leaves(toy.warm_state(OPTIMIZER, params))
        ),
    )  # fmt: skip
    assert toy.relative_error(whole.hypergradient, plain.hypergradient) < 1e-6
    assert toy.relative_error(whole.params["kernel"][...], plain.params["kernel"]) < 1e-6
    trainable, frozen = partition(params, lambda path, _: "kernel" in path)
    half = run(inner, outer)(
        params=trainable, frozen=frozen, meta_params=targets, inner_batch=batch, outer_batch=batch[0]
    )
    assert half.hypergradient.any()
    assert len(jax.tree.leaves(half.params)) == 1


def temporaries(
    width: int, rows: int, optimizer: optax.GradientTransformation, donate: tuple[int, ...] = ()
) -> tuple[dict[str, int], int]:
    """Compiled temporaries of the plain step and of both exact methods, and bytes of the parameters, for 24 layers."""

    def logits(params: Any, x: jax.Array) -> jax.Array:
        hidden, _ = jax.lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), x, params["stack"])
        return hidden[:, 0]

    def inner(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch), jax.nn.sigmoid(phi)))

    def outer(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch), 1.0))

    def plain(params: Any, state: Any, phi: jax.Array, batch: Any, _: Any) -> Any:
        updates, state = optimizer.update(jax.grad(inner)(params, phi, batch[0, 0]), state, params)
        return optax.apply_updates(params, updates), state

    params, batch = {"stack": jnp.zeros((24, width, width))}, jnp.ones((rows, width))
    arguments = (params, optimizer.init(params), jnp.zeros(rows), batch[None, None], batch[None])
    functions = {m: make_meta_gradient(inner, outer, optimizer, method=m) for m in ("mixed", "reverse")}  # type: ignore[arg-type]
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
    sizes = {}
    for name, function in ({"plain": plain} | functions).items():
        lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
        sizes[name] = lowered.compile(compiler_options=options).memory_analysis()
    return {name: size.temp_size_in_bytes for name, size in sizes.items()}, params["stack"].nbytes


def test_memory_of_the_phases_is_that_of_a_plain_step() -> None:
    """Deep network, large batch: isolating the phases keeps the peak memory at that of the plain step."""
    peak, tree = temporaries(16, 512, optax.sgd(0.1))
    assert peak["mixed"] <= 1.05 * peak["plain"] + 2 * tree
    assert peak["reverse"] > 1.5 * peak["plain"]


@pytest.mark.parametrize(("donate", "trees"), [((), 1.2), ((0, 1), 3.2)], ids=["kept", "donated"])
def test_memory_of_the_optimizers_phase(donate: tuple[int, ...], trees: float) -> None:
    """Large network, small batch: the phases keep few trees of the parameters' size, and copy no donated tree."""
    optimizer = optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adamw(1e-3))
    peak, tree = temporaries(64, 16, optimizer, donate)
    assert peak["mixed"] <= peak["plain"] + trees * tree
