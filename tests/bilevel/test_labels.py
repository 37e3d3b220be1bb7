"""The parametrizations of phi, and the optimizers for tables."""

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.bilevel import (
    LabelTable,
    WeightTable,
    corrector_net,
    lazy_adam,
    make_meta_gradient,
    optimizers,
    touched_rows,
)

RAW = np.array([0.0, 0.25, 0.5, 1.0])


def test_label_table_starts_at_the_estimates() -> None:
    table = LabelTable(floor=0.02)
    phi = table.init(RAW)
    assert phi.dtype == jnp.float32
    np.testing.assert_allclose(table.labels(phi, RAW), [0.02, 0.25, 0.5, 0.98], rtol=1e-6)
    indices = jnp.array([[3, 1], [0, 0]])
    targets, weights = table.targets_and_weights(phi, indices, jnp.asarray(RAW)[indices])
    np.testing.assert_allclose(targets, [[0.98, 0.25], [0.02, 0.02]], rtol=1e-6)
    assert (weights == 1.0).all()


def test_label_table_may_start_elsewhere() -> None:
    table = LabelTable(start=np.array([1.0, 0.9, 0.1, 0.0]))
    np.testing.assert_allclose(table.labels(table.init(RAW), RAW), [0.98, 0.9, 0.1, 0.02], rtol=1e-6)
    with pytest.raises(ValueError, match=r"start has shape \(4,\)"):
        table.init(RAW[:3])
    with pytest.raises(ValueError, match="label 1 is nan"):
        LabelTable().init(np.array([0.5, np.nan]))


def test_weight_table_is_clipped_and_keeps_labels() -> None:
    table = WeightTable()
    phi = table.init(RAW) + jnp.array([0.0, -3.0, 0.5, 3.0])
    targets, weights = table.targets_and_weights(phi, jnp.arange(4), jnp.asarray(RAW))
    np.testing.assert_allclose(weights, [1.0, 0.0, 1.5, 2.0])
    np.testing.assert_allclose(targets, RAW)
    np.testing.assert_allclose(table.project(phi), [1.0, 0.0, 1.5, 2.0])
    np.testing.assert_allclose(table.labels(phi, RAW), RAW)


def test_corrector_net_starts_at_the_falling_fit_and_never_rises() -> None:
    raw = np.array([0.5, 1.0, 0.25, 0.75, 0.75, 0.0])
    program = np.array([7, 7, 7, 2, 2, 2])
    features = np.random.default_rng(0).normal(size=(6, 3))
    net = corrector_net(raw, features, program)
    phi = net.init(raw)
    np.testing.assert_allclose(net.labels(phi, raw), [0.75, 0.75, 0.25, 0.75, 0.75, 0.02], atol=0.002)
    moved = jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.key(leaf.size), leaf.shape), phi)
    labels = np.asarray(net.labels(moved, raw)).reshape(2, 3)
    assert (np.diff(labels, axis=1) < 0).all()
    assert np.abs(labels.reshape(-1) - np.asarray(net.labels(phi, raw))).max() > 0.1
    # A batch in any order and shape gets the same labels.
    indices = jnp.array([[4, 0], [2, 5]])
    targets, weights = net.targets_and_weights(moved, indices, jnp.zeros((2, 2)))
    np.testing.assert_allclose(targets, labels.reshape(-1)[indices], rtol=1e-6)
    assert (weights == 1.0).all()
    with pytest.raises(ValueError, match="must be consecutive"):
        corrector_net(raw, features, np.array([7, 2, 7, 2, 7, 2]))


def test_corrector_net_has_an_exact_hypergradient() -> None:
    """phi is a tree, and the labels are products along the program."""
    raw = np.random.default_rng(1).uniform(size=toy.STEPS)
    net = corrector_net(raw, np.random.default_rng(2).normal(size=(toy.STEPS, 3)), np.arange(toy.STEPS) // 3)
    phi = jax.tree.map(lambda leaf: leaf + 0.3, net.init(raw))

    def inner_loss(params: dict, phi: dict, batch: dict) -> jax.Array:
        targets, weights = net.targets_and_weights(phi, batch["index"], jnp.zeros(()))
        return jnp.mean(weights * optax.sigmoid_binary_cross_entropy(toy.logits(params, batch["x"]), targets))

    optimizer = toy.OPTIMIZERS["adamw"]()
    state = toy.warm_state(optimizer, toy.params())
    mixed, reverse = (
        jax.jit(make_meta_gradient(inner_loss, toy.outer_loss, optimizer, method=method))(
            toy.params(), state, phi, toy.inner_batch(), toy.outer_batch()
        ).hypergradient
        for method in ("mixed", "reverse")
    )
    assert toy.relative_error(mixed, reverse) < 2e-6
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(mixed)) > 0


def test_lazy_adam_moves_only_the_rows_of_the_batch() -> None:
    """Each row gets exactly the AdamW updates of the steps in which it occurs."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    lazy = lazy_adam(0.1, weight_decay=0.01)
    dense = optax.adamw(0.1, weight_decay=0.01)
    params, state = table, lazy.init(table)
    alone = [(table[row], dense.init(table[row])) for row in range(5)]
    for _ in range(6):
        rows = rng.choice(4, size=2, replace=False)  # row 4 is never drawn
        gradient = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
        updates, state = lazy.update(gradient, state, params, touched=touched_rows(jnp.asarray(rows), 5))
        params = optax.apply_updates(params, updates)
        for row in rows:
            value, row_state = alone[row]
            update, row_state = dense.update(gradient[row], row_state, value)
            alone[row] = (optax.apply_updates(value, update), row_state)
    np.testing.assert_allclose(params, jnp.stack([value for value, _ in alone]), rtol=2e-5)
    np.testing.assert_array_equal(params[4], table[4])
    assert int(state.count.sum()) == 12


def test_touched_rows_leaves_padding_out() -> None:
    indices = jnp.array([[0, 2], [2, 3]])
    valid = jnp.array([[True, True], [True, False]])
    np.testing.assert_array_equal(touched_rows(indices, 5, valid), [True, False, True, False, False])
    optimizer = lazy_adam(0.1)
    with pytest.raises(ValueError, match="5 rows, touched 4"):
        optimizer.update(jnp.zeros(5), optimizer.init(jnp.zeros(5)), jnp.zeros(5), touched=jnp.zeros(4, bool))


def test_zero_safe_optimizers_are_those_of_optax() -> None:
    ours = optax.chain(optimizers.clip_by_global_norm(0.5), optimizers.adamw(0.1))
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))
    params = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    values = {name: (params, optimizer.init(params)) for name, optimizer in (("ours", ours), ("theirs", theirs))}
    for step in range(3):
        gradient = jax.tree.map(lambda leaf, step=step: (leaf - step) * 10.0 ** (-step), params)
        for name, optimizer in (("ours", ours), ("theirs", theirs)):
            value, state = values[name]
            updates, state = optimizer.update(gradient, state, value)
            values[name] = (optax.apply_updates(value, updates), state)
    assert toy.relative_error(values["ours"][0], values["theirs"][0]) < 1e-6
