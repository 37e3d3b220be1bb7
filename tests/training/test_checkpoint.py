"""Checkpoints: a saved state is restored completely, or only its parameters."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from dreamprm_jax.config import Config, LoraConfig, MeshConfig, ModelConfig
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.reward import abstract_params, init_params, step_logits
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState, restore_params
from dreamprm_jax.training.mesh import make_mesh, parameter_shardings
from dreamprm_jax.training.parameters import frozen_params, trained_params


def test_state_comes_back(tmp_path, micro, micro_params):
    optimizer = optax.adam(1e-3)
    state = TrainState(micro_params, optimizer.init(micro_params), jnp.arange(3.0), (jnp.int32(4),))
    plain = state._replace(phi=(), meta_opt_state=())
    with Checkpoints(tmp_path / "c", every=10, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(10, jax.tree.map(lambda leaf: leaf + 1, state))
        assert not checkpoints.due(15)
        checkpoints.save(15, state)  # not due, so not saved
        assert [step for step in range(12, 27, 3) if checkpoints.due(step, stride=3)] == [12, 21]  # three steps at once
        assert checkpoints.latest_step() == 10
        assert checkpoints.due(20)
        checkpoints.save(20, state)
        checkpoints.save(20, state, force=True)  # the second call has no effect
        checkpoints.save(25, state, force=True)
    with Checkpoints(tmp_path / "c", every=10, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 25
        chex.assert_trees_all_equal(checkpoints.restore(25, state), state)
        assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.isdigit()) == ["20", "25"]
    step, params = restore_params(
        tmp_path / "c", abstract_params(micro), parameter_shardings(micro, make_mesh(MeshConfig()))
    )
    assert step == 25
    chex.assert_trees_all_equal(params, micro_params)
    with Checkpoints(tmp_path / "plain", every=1, keep=1) as checkpoints:  # an arm without a label table
        checkpoints.save(1, plain)
    with Checkpoints(tmp_path / "plain", every=1, keep=1) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(1, plain), plain)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_scoring_reads_narrow_parameters_and_scores_the_same(tmp_path, micro, lora):
    mesh = make_mesh(MeshConfig())
    model = dataclasses.replace(micro, dtype="bfloat16", lora=lora)
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    trainable, frozen = split_trainable(model, params)
    with Checkpoints(tmp_path, every=1, keep=1) as checkpoints:
        checkpoints.save(3, TrainState(trainable, (), (), ()))
    config = Config(model=ModelConfig(dtype="bfloat16"))
    read = {}
    for scoring in (False, True):
        if lora is not None:
            frozen = frozen_params(config, model, mesh, scoring)
        step, read[scoring] = trained_params(model, mesh, tmp_path, frozen, scoring)
        assert step == 3
    layers = read[True]["decoder"]["layers"]
    assert layers["q"]["kernel"].dtype == read[True]["decoder"]["embedding"].dtype == jnp.bfloat16
    assert layers["attention_norm"]["scale"].dtype == jnp.float32
    assert read[False]["decoder"]["layers"]["q"]["kernel"].dtype == jnp.float32
    tokens = jnp.arange(1, 13)[None]
    logits = [step_logits(model, read[scoring], tokens, tokens - 1, None, tokens - 1) for scoring in (False, True)]
    chex.assert_trees_all_equal(*logits)


def test_folder_without_a_checkpoint_is_named(tmp_path, micro):
    (tmp_path / "empty").mkdir()
    shardings = parameter_shardings(micro, make_mesh(MeshConfig()))
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DataError, match=f"{folder.name}: no checkpoint; run the train stage first"):
            restore_params(folder, abstract_params(micro), shardings)
    assert not (tmp_path / "none").exists()
