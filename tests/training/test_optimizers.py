"""Any optax transformation can train: its state is sharded by path and shape, donated, saved and restored."""

import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from training_toy import copied, make_data, make_examples

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models.reward import abstract_params
from dreamprm_jax.training import optimizer as optimizer_module
from dreamprm_jax.training.loop import Arm, train_arm
from dreamprm_jax.training.losses import make_inner_loss
from dreamprm_jax.training.mesh import abstract_mesh, make_mesh, optimizer_shardings, parameter_shardings, replicated
from dreamprm_jax.training.state import Setup, state_from_params


def kernels(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def groups(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


OPTIMIZERS = {
    "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=8),
    "muon": optax.contrib.muon(1e-3),
    "sm3": optax.sm3(1e-3),
    "masked": optax.masked(optax.adam(1e-3), kernels),
    "multi_transform": optax.multi_transform({"matrix": optax.adam(1e-3), "vector": optax.sgd(1e-2)}, groups),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-3),  # its state contains the parameters
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1e-3, 0.0, 10)),
    "multi_steps": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "lookahead-like": optax.chain(optax.trace(0.9), optax.ema(0.5), optax.scale(-1e-3)),
    "noisy_sgd": optax.noisy_sgd(1e-3),  # its state contains a random key
    "reduce_on_plateau": optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),  # uses the loss
    "polyak": optax.polyak_sgd(1e-2),
    "lbfgs": optax.lbfgs(1e-2, linesearch=None),  # stacks of parameters
    "backtracking": optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5)),  # evaluates the loss
    "adamw": optax.adamw(1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_state_has_shardings_that_fit_it(name, micro):
    mesh = abstract_mesh(MeshConfig(2, 2, 2), 8)
    params, shardings = abstract_params(micro), parameter_shardings(micro, mesh)
    placed = optimizer_shardings(OPTIMIZERS[name], params, shardings, mesh)
    state = jax.eval_shape(OPTIMIZERS[name].init, params)
    chex.assert_trees_all_equal_structs(placed, state)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        sharding.shard_shape(leaf.shape)  # raises an error if the axes do not fit


def test_moments_lie_as_their_parameters_and_the_rest_on_every_device(micro):
    mesh = abstract_mesh(MeshConfig(2, 2, 2), 8)
    params, shardings = abstract_params(micro), parameter_shardings(micro, mesh)
    placed = optimizer_shardings(OPTIMIZERS["adamw"], params, shardings, mesh)
    assert placed[0].mu == placed[0].nu == shardings
    assert placed[0].count == replicated(mesh)
    of_matrices = optimizer_shardings(OPTIMIZERS["masked"], params, shardings, mesh).inner_state[0].mu
    assert of_matrices["decoder"]["embedding"].spec == PartitionSpec("tensor", "fsdp")
    factored = optimizer_shardings(OPTIMIZERS["adafactor"], params, shardings, mesh)[0]
    assert factored.v_row["decoder"]["embedding"] == replicated(mesh)
    assert factored.v["decoder"]["final_norm"]["scale"] == shardings["decoder"]["final_norm"]["scale"]


@pytest.mark.parametrize("name", ["adafactor", "muon", "multi_transform", "schedule_free", "noisy_sgd", "backtracking"])
def test_training_with_any_optimizer_saves_and_goes_on(name, micro, micro_params, micro_train, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer_module, "_adamw", lambda config: OPTIMIZERS[name])
    config = dataclasses.replace(micro_train, warmup_steps=0, steps=4, evaluate_every=0)
    setup = Setup(config, micro, make_mesh(MeshConfig()), None)
    examples, loss = make_examples(12), make_inner_loss(micro, None, 1.0)

    def start():
        return state_from_params(setup, jax.device_put(copied(micro_params), replicated(setup.mesh)))

    def never():
        raise AssertionError("the checkpoint is there")

    data = make_data(examples, config)
    half = jax.device_get(train_arm(setup, Arm("raw", loss, 0, 2), data, start, tmp_path))
    whole = train_arm(setup, Arm("raw", loss, 0, 4), data, never, tmp_path)
    for before, after in ((micro_params, half.params), (half.params, whole.params)):
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        assert 1e-6 < max(float(np.abs(a - b).max()) for a, b in pairs) < 2.0


@pytest.mark.parametrize("total", [1, 2, 19, 400])
def test_the_learning_rate_reaches_its_peak_however_few_the_steps(total):
    schedule = optimizer_module.learning_rate_schedule(0.5, total)
    rates = [float(schedule(step)) for step in range(total)]
    assert max(rates) == 0.5
    assert rates[-1] >= 0.05
