"""The initial labels: padded, on every device, and an argument of the step instead of a constant in its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_toy import make_data, make_examples

from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.config import MeshConfig
from dreamprm_jax.training.label_table import MULTIPLE, PADDING, LabelStart, label_start, mean_drift, padded_rows
from dreamprm_jax.training.loop import Arm, compile_step
from dreamprm_jax.training.losses import make_inner_loss
from dreamprm_jax.training.mesh import abstract_mesh, make_mesh, replicated
from dreamprm_jax.training.state import Setup, abstract_state
from dreamprm_jax.training.steps import StepInputs

LABELS = LabelTable(0.02)


@pytest.mark.parametrize("count", [0, 1, MULTIPLE, MULTIPLE + 1])
def test_padding(count):
    start = label_start(LABELS, np.ones(count, np.float32))
    assert len(start.values) == padded_rows(count) == -(-count // MULTIPLE) * MULTIPLE
    assert int(start.known) == count
    assert (start.values[:count] == 1).all()
    assert (start.values[count:] == PADDING).all()


def test_drift_is_the_mean_over_steps_without_padding():
    start = LabelStart(jnp.array([0.0, 1.0, 0.5, 0.5]), jnp.int32(2))
    assert float(mean_drift(start, jnp.array([0.5, 0.75, 0.0, 1.0]))) == pytest.approx(0.375)


def test_table_and_its_optimizer_state_are_on_every_device(micro, micro_train):
    mesh = abstract_mesh(MeshConfig(2, 2, 2), 8)
    state = abstract_state(micro_train, micro, mesh, LABELS, jax.ShapeDtypeStruct((MULTIPLE,), jnp.float32))
    leaves = jax.tree.leaves((state.phi, state.meta_opt_state))
    assert len(leaves) == 4
    assert all(leaf.sharding == replicated(mesh) for leaf in leaves)


def test_label_sets_share_one_program(micro, micro_train):
    """Different labels, and different numbers of labels, use one compiled program."""
    setup, data = Setup(micro_train, micro, make_mesh(MeshConfig()), None), make_data(make_examples(12), micro_train)
    arm = Arm("corrected", make_inner_loss(micro, LABELS, 1.0), 0, 1, LABELS)
    programs = set()
    for raw in (data.raw, np.zeros(1000, np.float32)):
        labels = label_start(LABELS, raw, setup.mesh)
        shapes = abstract_state(micro_train, micro, setup.mesh, LABELS, labels.values)
        inputs = StepInputs(data.inner.batch(0), data.outer.batch(0), jnp.asarray(True), labels=labels)
        programs.add(compile_step(setup, arm, shapes).lower(shapes, inputs, jnp.zeros(1, bool)).as_text())
    assert len(programs) == 1
