"""Training steps with micro-batches, in bfloat16, and with master weights."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_toy import make_data, make_examples

from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models.reward import abstract_params
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.global_batch import step_batch
from dreamprm_jax.training.label_table import LabelStart
from dreamprm_jax.training.loop import make_plain_step
from dreamprm_jax.training.losses import make_inner_loss
from dreamprm_jax.training.mesh import abstract_mesh, make_mesh, optimizer_shardings, parameter_shardings
from dreamprm_jax.training.online_label_inference import alive_posterior
from dreamprm_jax.training.optimizer import make_meta_optimizer, make_optimizer
from dreamprm_jax.training.steps import StepInputs, make_bilevel_step

LABELS = LabelTable(0.02)


@pytest.fixture(scope="module")
def settings(micro_train):
    return dataclasses.replace(
        micro_train, batch_size=4, learning_rate=1e-3, meta=dataclasses.replace(micro_train.meta, batch_size=4)
    )


@pytest.fixture(scope="module")
def data(settings):
    return make_data(make_examples(24), settings)


@pytest.fixture(scope="module")
def warm(micro, micro_params, settings, data):
    """A state after steps that have changed every optimizer moment."""
    optimizer = make_optimizer(settings)
    phi = LABELS.init(jnp.asarray(data.raw))
    state = TrainState(micro_params, optimizer.init(micro_params), phi, make_meta_optimizer(settings, LABELS).init(phi))
    plain = jax.jit(make_plain_step(make_inner_loss(micro, None, 0.7), optimizer))
    for step in range(8):
        state = plain(state, StepInputs(data.inner.batch(10 + step))).state
    return state


def counts(batch):
    return np.asarray(batch.label_mask.sum((-2, -1))).tolist(), np.asarray(batch.outcome_mask.sum((-2, -1))).tolist()


def test_micro_batches_are_uneven_and_hold_the_batch(data):
    whole, split = data.inner.batch(2), step_batch(data.inner, [2], 2, make_mesh(MeshConfig()))
    labels, outcomes = counts(split)
    assert labels[0] != labels[1]
    assert outcomes[0] != outcomes[1]
    assert (sum(labels), sum(outcomes)) == counts(whole)
    assert float(split.label_share.sum()) == pytest.approx(sum(labels))
    assert float(split.outcome_share.sum()) == pytest.approx(sum(outcomes))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), split)
    chex.assert_trees_all_equal(flat, whole)


@pytest.mark.parametrize("infer", [None, functools.partial(alive_posterior, hidden=0.1)])
def test_plain_step_over_micro_batches_is_that_of_the_batch(micro, warm, data, settings, infer):
    loss = make_inner_loss(micro, None, 0.7, infer=infer)
    optimizer, mesh = make_optimizer(settings), make_mesh(MeshConfig())
    whole = jax.jit(make_plain_step(loss, optimizer))(warm, StepInputs(data.inner.batch(2)))
    split = jax.jit(make_plain_step(loss, optimizer, 2))(warm, StepInputs(step_batch(data.inner, [2], 2, mesh)))
    assert float(split.metrics["inner_loss"]) == pytest.approx(float(whole.metrics["inner_loss"]), rel=1e-6)
    assert float(split.metrics["gradient_norm"]) == pytest.approx(float(whole.metrics["gradient_norm"]), rel=1e-5)
    moved = jax.tree.map(lambda new, old: new - old, whole.state.params, warm.params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) > 1e-4
    chex.assert_trees_all_close(split.state.params, whole.state.params, atol=2e-6)


@pytest.mark.parametrize("unroll", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_hypergradient_over_micro_batches_is_that_of_the_batch(micro, warm, data, settings, unroll):
    loss, mesh, steps = make_inner_loss(micro, LABELS, 0.7), make_mesh(MeshConfig()), range(2, 2 + unroll)
    optimizer = make_optimizer(settings)

    def run(micro_batches):
        meta = dataclasses.replace(settings.meta, unroll=unroll, accumulation=micro_batches)
        config = dataclasses.replace(settings, accumulation=micro_batches, meta=meta)
        step = jax.jit(make_bilevel_step(micro, loss, LABELS, optimizer, config))
        inner = step_batch(data.inner, steps, micro_batches, mesh)
        labels = LabelStart(jnp.asarray(data.raw), jnp.int32(len(data.raw)))
        return step(warm, StepInputs(inner, step_batch(data.inner, [6], micro_batches, mesh), True, labels=labels))

    whole, split = run(1), run(2)
    for name in ("inner_loss", "outer_loss", "gradient_norm", "hypergradient_norm"):
        assert float(split.metrics[name]) == pytest.approx(float(whole.metrics[name]), rel=1e-4), name
    assert float(whole.metrics["hypergradient_norm"]) > 1e-5
    scale = float(jnp.abs(whole.label_move.direction).max())
    np.testing.assert_allclose(split.label_move.direction, whole.label_move.direction, atol=1e-4 * scale)
    np.testing.assert_array_equal(split.label_move.touched, whole.label_move.touched)
    assert 0 < int(whole.label_move.touched.sum()) < len(data.raw)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_the_tangent_pass_may_read_what_the_inner_gradient_kept(micro, warm, data, settings, remat):
    """One linearization of the inner loss gives the gradient and the hypergradient of separate passes."""
    mesh, optimizer = make_mesh(MeshConfig()), make_optimizer(settings)
    inputs = StepInputs(step_batch(data.inner, [2], 1, mesh), step_batch(data.outer, [6], 1, mesh), True)
    inputs = inputs._replace(labels=LabelStart(jnp.asarray(data.raw), jnp.int32(len(data.raw))))
    loss = make_inner_loss(dataclasses.replace(micro, derivative="once", remat=remat), LABELS, 0.7)

    def run(reuse):
        config = dataclasses.replace(settings, meta=dataclasses.replace(settings.meta, unroll=1, reuse_forward=reuse))
        return jax.jit(make_bilevel_step(micro, loss, LABELS, optimizer, config))(warm, inputs)

    separate, shared = run(False), run(True)
    scale = float(jnp.abs(separate.label_move.direction).max())
    assert scale > 1e-6
    np.testing.assert_allclose(shared.label_move.direction, separate.label_move.direction, atol=1e-5 * scale)
    chex.assert_trees_all_close(shared.state.params, separate.state.params, atol=2e-6)


@pytest.mark.parametrize("method", ["first_order", "sama"])
def test_approximate_methods_point_where_the_exact_one_does(micro, warm, data, settings, method):
    """The inner step is the same, and the hypergradients differ by a small angle."""
    loss, mesh, optimizer = make_inner_loss(micro, LABELS, 0.7), make_mesh(MeshConfig()), make_optimizer(settings)
    inputs = StepInputs(step_batch(data.inner, [2], 1, mesh), step_batch(data.outer, [6], 1, mesh), True)
    inputs = inputs._replace(labels=LabelStart(jnp.asarray(data.raw), jnp.int32(len(data.raw))))

    def run(method):
        config = dataclasses.replace(settings, meta=dataclasses.replace(settings.meta, method=method, unroll=1))
        return jax.jit(make_bilevel_step(micro, loss, LABELS, optimizer, config))(warm, inputs)

    exact, found = run("mixed"), run(method)
    chex.assert_trees_all_close(found.state.params, exact.state.params, atol=2e-6)
    left, right = (np.asarray(result.label_move.direction) for result in (found, exact))
    cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert {"first_order": 0.8, "sama": 0.999}[method] < cosine < 1.0 - 1e-8


def test_bfloat16_compute_stays_close_to_float32(micro, warm, data, settings):
    """Parameters, moments and losses stay float32; the gradient equals that of float32 up to bfloat16 rounding."""
    mesh, optimizer = make_mesh(MeshConfig()), make_optimizer(settings)
    inputs = StepInputs(step_batch(data.inner, [3], 1, mesh))
    results = [
        jax.jit(make_plain_step(make_inner_loss(dataclasses.replace(micro, dtype=dtype), None, 0.7), optimizer))(
            warm, inputs
        )
        for dtype in ("float32", "bfloat16")
    ]
    wide, narrow = results
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.state.params)} == {jnp.dtype("float32")}
    for name in ("inner_loss", "gradient_norm"):
        assert float(narrow.metrics[name]) == pytest.approx(float(wide.metrics[name]), rel=0.05)
        assert float(narrow.metrics[name]) != float(wide.metrics[name])


@pytest.mark.slow
def test_master_weights_keep_updates_that_bfloat16_loses(micro, micro_params, data, settings):
    """After many small steps with master weights, the parameters move like float32 ones; without, updates are lost."""
    config = dataclasses.replace(settings, learning_rate=2e-5, warmup_steps=0, steps=40)
    model = dataclasses.replace(micro, dtype="bfloat16")
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), micro_params["decoder"])
    narrow = {"decoder": narrow, "head": micro_params["head"]}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    loss, kernel = make_inner_loss(model, None, 0.7), lambda tree: tree["decoder"]["layers"]["q"]["kernel"]

    def train(params, master):
        optimizer = make_optimizer(dataclasses.replace(config, master_weights=master))
        step = jax.jit(make_plain_step(loss, optimizer))
        state = TrainState(params, optimizer.init(params), (), ())
        for index in range(40):
            state = step(state, StepInputs(data.inner.batch(index))).state
        return state

    reference = np.asarray(kernel(train(wide, False).params) - kernel(wide))
    with_master, without = train(narrow, True), train(narrow, False)
    assert kernel(with_master.params).dtype == jnp.bfloat16
    chex.assert_trees_all_equal(
        with_master.params["decoder"],
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), with_master.opt_state.master["decoder"]),
    )
    moved = np.asarray(kernel(with_master.opt_state.master) - kernel(wide))
    lost = np.asarray(kernel(without.params).astype(jnp.float32) - kernel(wide))

    def cosine(a, b):
        return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30))

    assert cosine(moved, reference) > 0.99
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(reference), rel=0.05)
    assert np.linalg.norm(lost - reference) > 0.3 * np.linalg.norm(reference)


def test_master_weights_lie_as_their_parameters(micro, settings):
    model = dataclasses.replace(micro, param_dtype="bfloat16")
    mesh = abstract_mesh(MeshConfig(2, 2, 2), 8)
    shardings, shapes = parameter_shardings(model, mesh), abstract_params(model)
    optimizer = make_optimizer(dataclasses.replace(settings, master_weights=True))
    placed = optimizer_shardings(optimizer, shapes, shardings, mesh)
    assert placed.master == shardings
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(optimizer.init, shapes).master)} == {
        jnp.dtype("float32")
    }
