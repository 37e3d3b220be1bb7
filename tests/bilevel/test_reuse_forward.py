"""A tangent pass that reuses the activations of the inner gradient: exact hypergradient with one less forward pass."""

import jax
import jax.numpy as jnp
import optax
import pytest

from dreamprm_jax.bilevel import make_meta_gradient


def inner(params, phi, batch):
    out = jnp.tanh(batch["x"] @ params["w"]) @ params["v"]
    return jnp.mean(jax.nn.softplus(phi)[batch["i"]] * (out - batch["y"] - phi[batch["i"]]) ** 2)


def outer(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2)


def problem(steps=1, micro=1):
    keys = jax.random.split(jax.random.key(0), 6)
    params = {"w": jax.random.normal(keys[0], (5, 7)), "v": jax.random.normal(keys[1], (7,))}
    shape = (steps, micro, 8)
    rows = {"x": jax.random.normal(keys[2], (*shape, 5)), "y": jax.random.normal(keys[3], shape)}
    rows["i"] = jnp.broadcast_to(jnp.arange(8), shape)
    return params, rows, {"x": jax.random.normal(keys[4], (1, 8, 5)), "y": jax.random.normal(keys[5], (1, 8))}


@pytest.mark.parametrize("reads_loss", [False, True])
def test_it_is_the_exact_hypergradient(reads_loss):
    params, rows, held_out = problem()
    optimizer = optax.sgd(0.1)
    if reads_loss:  # the update depends on the loss, and so does the hypergradient
        scale = optax.GradientTransformationExtraArgs(
            lambda params: (), lambda g, s, p=None, *, value, **rest: (jax.tree.map(lambda leaf: leaf * value, g), s)
        )
        optimizer = optax.chain(scale, optimizer)
    phi = jnp.linspace(-1, 1, 8)
    found, expected = (
        make_meta_gradient(inner, outer, optimizer, **kind)(params, optimizer.init(params), phi, rows, held_out)
        for kind in ({"reuse_forward": True}, {"method": "reverse"})
    )
    assert float(jnp.abs(expected.hypergradient).max()) > 1e-3
    assert jnp.allclose(found.hypergradient, expected.hypergradient, rtol=1e-4, atol=1e-6)
    assert jnp.allclose(found.params["w"], expected.params["w"], rtol=1e-5, atol=1e-6)


def test_what_it_does_not_go_with_is_refused():
    with pytest.raises(ValueError, match="only method='mixed' has it"):
        make_meta_gradient(inner, outer, optax.sgd(0.1), method="sama", reuse_forward=True)
    run = make_meta_gradient(inner, outer, optax.sgd(0.1), reuse_forward=True)
    for steps, micro in ((2, 1), (1, 2)):
        params, rows, held_out = problem(steps, micro)
        with pytest.raises(ValueError, match="both must be 1"):
            run(params, optax.sgd(0.1).init(params), jnp.zeros(8), rows, held_out)
