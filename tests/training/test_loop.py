"""The loop on a micro model: resumption, the bi-level step by hand, the guard against non-finite values."""

import dataclasses
import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_toy import copied, make_data, make_examples

from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.config import LoraConfig, MeshConfig
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.reward import init_params
from dreamprm_jax.schema import DataError, Program
from dreamprm_jax.scoring.scorer import ProgramReading, Reading, Scorer
from dreamprm_jax.stages.score import score_programs
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.feed import Shape, collate
from dreamprm_jax.training.label_table import LabelStart
from dreamprm_jax.training.loop import Arm, make_plain_step, train_arm
from dreamprm_jax.training.losses import batch_logits, make_inner_loss, make_outer_loss
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.optimizer import make_meta_optimizer, make_optimizer
from dreamprm_jax.training.parameters import trained_params
from dreamprm_jax.training.state import Setup
from dreamprm_jax.training.steps import StepInputs, make_bilevel_step

LABELS = LabelTable(0.02)


@pytest.fixture(scope="module")
def examples():
    return make_examples(12)


@pytest.fixture(scope="module")
def start(examples, micro_params, micro_train):
    params = micro_params
    phi = LABELS.init(jnp.asarray(make_data(examples, micro_train).raw))
    return TrainState(
        params, make_optimizer(micro_train).init(params), phi, make_meta_optimizer(micro_train, LABELS).init(phi)
    )


@pytest.fixture(scope="module")
def run(examples, micro, micro_train, start):
    """Trains the bi-level arm for steps 2 to 8 in a folder."""

    def call(folder, config=micro_train, at=None, event=None, loss=None, truth_seed=0):
        inner_loss = loss or make_inner_loss(micro, LABELS, config.outcome_weight)
        arm = Arm("corrected", inner_loss, config.warmup_steps, config.warmup_steps + config.steps, LABELS)
        data = make_data(examples, config, at, event, truth_seed)
        without = start._replace(phi=(), meta_opt_state=())
        return train_arm(setup_of(config, micro), arm, data, lambda: copied(without), folder)

    return call


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(folder, last state) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def setup_of(config, model):
    return Setup(config, model, make_mesh(MeshConfig()), None)


def metrics(folder):
    return (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("event", "at", "error", "lines", "saved"),
    [
        (terminate, 4, SystemExit, 3, 5),  # SIGTERM between two checkpoints: saves a checkpoint, then stops
        (crash, 7, KeyboardInterrupt, 5, 6),  # any other error: continues from the last checkpoint and its metrics
    ],
    ids=["SIGTERM", "crash"],
)
def test_resumed_run_equals_an_uninterrupted_one(run, whole, tmp_path, event, at, error, lines, saved):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error) as stopped:
        run(tmp_path, at=at, event=event)
    if error is SystemExit:
        assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(metrics(tmp_path)) == lines
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == saved
    seen = []
    resumed = run(tmp_path, at=saved, event=lambda: seen.append(True))
    assert seen  # it continued from the checkpoint
    chex.assert_trees_all_equal(resumed, whole[1])
    assert metrics(tmp_path) == metrics(whole[0])
    assert len(metrics(tmp_path)) == 6
    chex.assert_trees_all_equal(run(tmp_path, at=7, event=crash), whole[1])  # already finished, so no step is run


def test_measurements_change_no_step(run, whole, micro_train, tmp_path):
    """The state is bitwise equal with and without measurements, and the measurements are at their steps."""
    rows = [json.loads(line) for line in metrics(whole[0])]
    measured = {"meta_loss", "meta_outcome_auroc", "meta_step_auroc", "dropped_tokens"}
    assert [row["step"] for row in rows if measured <= row.keys()] == [3, 7]  # after 4 and after 8 steps
    assert [row["step"] for row in rows if measured & row.keys()] == [3, 7]
    assert all({"label_error", "label_drift", "hypergradient_norm"} <= row.keys() for row in rows)
    shares = [row["hypergradient_sign_agreement"] for row in rows if "hypergradient_sign_agreement" in row]
    assert len(shares) > 3
    assert all(0 <= share <= 1 for share in shares)
    assert {row["dropped_tokens"] for row in rows if "dropped_tokens" in row} == {7.0}

    profiled = dataclasses.replace(micro_train, profile_from=3, profile_steps=2)
    chex.assert_trees_all_equal(run(tmp_path / "none", config=profiled, truth_seed=None), whole[1])
    alone = [json.loads(line) for line in metrics(tmp_path / "none")]
    assert not any((measured | {"label_error", "hypergradient_sign_agreement"}) & row.keys() for row in alone)
    assert [row["inner_loss"] for row in alone] == [row["inner_loss"] for row in rows]
    assert list((tmp_path / "none" / "profile").rglob("*.xplane.pb"))
    assert not (whole[0] / "profile").exists()


def test_bilevel_step_by_hand(examples, micro, micro_train, start):
    """theta' equals that of the plain step; phi' is one Adam step along jax.grad through the whole inner step."""
    data = make_data(examples, micro_train)
    inner_loss, outer_loss = make_inner_loss(micro, LABELS, 0.7), make_outer_loss(micro)
    optimizer = make_optimizer(micro_train)
    batch, outer = data.inner.batch(0), data.outer.batch(0)
    plain = jax.jit(make_plain_step(inner_loss, optimizer))
    state = start
    for step in range(6):  # warm moments, because the derivative of Adam's first steps is large for tiny gradients
        state, _, _ = plain(state, StepInputs(data.inner.batch(10 + step)))
    bilevel = jax.jit(make_bilevel_step(micro, inner_loss, LABELS, optimizer, micro_train))
    labels = LabelStart(jnp.asarray(data.raw), jnp.int32(len(data.raw)))
    got, values, _ = bilevel(state, StepInputs(batch, outer, True, labels=labels))

    expected, plain_values, _ = plain(state, StepInputs(batch))
    chex.assert_trees_all_close(got.params, expected.params, atol=1e-6)
    assert float(values["inner_loss"]) == pytest.approx(float(plain_values["inner_loss"]), rel=1e-6)

    def through_the_step(phi):
        gradient = jax.grad(inner_loss)(state.params, phi, batch)
        updates, _ = optimizer.update(gradient, state.opt_state, state.params)
        return outer_loss(optax.apply_updates(state.params, updates), outer)

    loss, gradient = jax.jit(jax.value_and_grad(through_the_step))(state.phi)
    assert float(values["outer_loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(values["hypergradient_norm"]) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-4)
    touched = np.unique(batch.label_index[batch.label_mask])
    assert 0 < len(touched) < len(data.raw)
    step = np.zeros(len(data.raw))
    # Adam's first step is m / (1 - b1) divided by the root of v / (1 - b2), that is, g / (|g| + eps)
    step[touched] = -micro_train.meta.learning_rate * np.asarray(gradient / (jnp.abs(gradient) + 1e-8))[touched]
    np.testing.assert_allclose(got.phi - state.phi, step, atol=2e-3 * micro_train.meta.learning_rate)
    np.testing.assert_array_equal(np.flatnonzero(got.meta_opt_state.count), touched)

    skipped = bilevel(state, StepInputs(batch, outer, False, labels=labels)).state
    np.testing.assert_array_equal(skipped.phi, state.phi)
    chex.assert_trees_all_close(skipped.params, expected.params, atol=1e-6)


def test_dropout_has_one_mask_in_all_phases_of_a_bilevel_step(examples, micro, micro_train, start):
    """With LoRA dropout, another key gives another step; the phases agree with jax.grad through the whole step."""
    model = dataclasses.replace(micro, lora=LoraConfig(rank=2, dropout=0.5))
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(1))
    trainable, frozen = split_trainable(model, jax.tree.map(lambda leaf: leaf + 0.1, params))
    optimizer = make_optimizer(micro_train)
    state = start._replace(params=trainable, opt_state=optimizer.init(trainable))
    data = make_data(examples, micro_train)
    labels = LabelStart(jnp.asarray(data.raw), jnp.int32(len(data.raw)))
    inputs = StepInputs(data.inner.batch(0), data.outer.batch(0), True, frozen, labels=labels)
    inner_loss = make_inner_loss(model, LABELS, 0.7)
    plain = jax.jit(make_plain_step(inner_loss, optimizer))
    for step in range(6):  # warm moments
        warm = StepInputs(data.inner.batch(10 + step), frozen=frozen, key=jax.random.key(step))
        state = plain(state, warm).state

    def bilevel(method):
        config = dataclasses.replace(micro_train, meta=dataclasses.replace(micro_train.meta, method=method))
        return jax.jit(make_bilevel_step(model, inner_loss, LABELS, optimizer, config))

    mixed, reverse = bilevel("mixed"), bilevel("reverse")
    values = [mixed(state, inputs._replace(key=jax.random.key(key))).metrics for key in (0, 0, 1)]
    assert values[0] == values[1]
    assert abs(values[0]["inner_loss"] - values[2]["inner_loss"]) > 1e-3
    expected = reverse(state, inputs._replace(key=jax.random.key(0))).metrics
    assert float(values[0]["hypergradient_norm"]) == pytest.approx(float(expected["hypergradient_norm"]), rel=1e-4)
    assert abs(values[0]["hypergradient_norm"] / values[2]["hypergradient_norm"] - 1) > 1e-3


def test_loss_that_is_not_finite_keeps_the_batch(run, examples, micro, micro_train, tmp_path):
    """The run stops, the batch is on disk, and the last checkpoint is older than the bad step."""
    inner = make_inner_loss(micro, LABELS, 1.0)
    rows = make_data(examples, micro_train).inner
    # marks of the batch of step 5; the loss becomes non-finite for a batch with these marks
    bad = rows.batch(5)

    def broken(params, phi, batch):
        same = (batch.tokens == bad.tokens).all()
        return jnp.where(same, jnp.nan, inner(params, phi, batch))

    config = dataclasses.replace(micro_train, log_every=100, checkpoint_every=3)
    with pytest.raises(DataError, match=r"broken, step 5: .*inner_loss.* not finite; the batch is in .*not_finite_5"):
        run(tmp_path / "broken", config=config, loss=broken)
    with np.load(tmp_path / "broken" / "not_finite_5.npz") as kept:
        for name, leaf in bad._asdict().items():
            np.testing.assert_array_equal(kept[name], leaf)
        np.testing.assert_array_equal(kept["outer_tokens"], make_data(examples, micro_train).outer.batch(5).tokens)
    checkpoints = [int(path.name) for path in (tmp_path / "broken" / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(checkpoints) == 3
    assert [json.loads(line)["step"] for line in metrics(tmp_path / "broken")] == [3]  # the measurement before


def test_master_weights_of_float32_parameters_are_refused(run, micro_train, tmp_path):
    with pytest.raises(DataError, match="master_weights: every trained parameter is float32 already"):
        run(tmp_path, config=dataclasses.replace(micro_train, master_weights=True))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_step_outside_the_label_table_is_refused(examples, micro, micro_train, start, tmp_path):
    data = make_data(examples, micro_train)
    short = dataclasses.replace(data, raw=data.raw[:-1])
    arm = Arm("corrected", make_inner_loss(micro, LABELS, 1.0), 0, 1, LABELS)
    with pytest.raises(
        DataError, match=f"a step asks for row {len(data.raw) - 1} of a label table of {len(data.raw) - 1}"
    ):
        train_arm(setup_of(micro_train, micro), arm, short, lambda: copied(start), tmp_path)


def test_scores_of_a_trained_arm(whole, examples, micro):
    """Restored from the checkpoint, in the order of the sequences, and equal to a separate pass of each program."""
    folder, state = whole
    sequences = [
        ProgramReading(Program(e.problem_id, e.program_hash, 0, "", "", ""), Reading(e.tokens, e.step_index))
        for e in examples
    ]
    mesh = make_mesh(MeshConfig())
    nothing = split_trainable(micro, state.params)[1]
    step, params = trained_params(micro, mesh, folder / "checkpoints", nothing)
    rows = score_programs(Scorer(micro, mesh, params, 64, 128), "raw", f"raw/{step}", sequences)
    assert [row.program_hash for row in rows] == [e.program_hash for e in examples]
    assert {(row.model, row.checkpoint) for row in rows} == {("raw", "raw/8")}
    batch = collate([[example] for example in examples], Shape(16, 4))
    logits = np.asarray(jax.jit(batch_logits, static_argnums=0)(micro, state.params, batch))
    for row, expected, example in zip(rows, logits, examples, strict=True):
        count = len(example.step_index)
        np.testing.assert_allclose(row.step_logits, expected[:count], atol=1e-5)
        np.testing.assert_allclose(row.step_scores, 1 / (1 + np.exp(-expected[:count])), atol=1e-5)
