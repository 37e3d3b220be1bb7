"""LoRA as pytree leaves: initial no-op, merge and unmerge, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_toy import random_params

from dreamprm_jax.config import LoraConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.lora import is_trainable, merge_adapters, split_adapters
from dreamprm_jax.models.reward import init_params, step_logits
from dreamprm_jax.schema import DataError

BASE = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
LORA = LoraConfig(rank=3, alpha=6.0, targets=("q", "k", "v", "o", "gate", "up", "down"))
CONFIG = dataclasses.replace(BASE, lora=LORA)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 64, (2, 12)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(12), (2, 12))

logits = jax.jit(
    lambda config, params, key=None: step_logits(config, params, TOKENS, POSITIONS, None, POSITIONS, dropout_key=key),
    static_argnums=0,
)


@pytest.fixture(scope="module")
def trained():
    """Parameters with adapters that have an effect."""
    params = random_params(CONFIG)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape) if "lora_b" in str(path) else x,
        params,
    )


def test_fresh_adapters_change_nothing():
    params = random_params(CONFIG)
    rest, adapters = split_adapters(params)
    assert len(jax.tree.leaves(adapters)) == 14
    np.testing.assert_array_equal(logits(CONFIG, params), logits(BASE, rest))


def test_merged_parameters_give_the_same_logits_without_lora(trained):
    merged = merge_adapters(trained, LORA)
    assert jax.tree.structure(merged) == jax.tree.structure(split_adapters(trained)[0])
    np.testing.assert_allclose(logits(BASE, merged), logits(CONFIG, trained), atol=2e-6)
    assert float(jnp.abs(logits(BASE, split_adapters(trained)[0]) - logits(CONFIG, trained)).max()) > 1e-2


def test_what_trains(trained):
    leaves, _ = jax.tree_util.tree_flatten_with_path(trained)
    names = [tuple(key.key for key in path) for path, _ in leaves]
    chosen = {"/".join(name) for name in names if is_trainable(name)}
    assert {"head/kernel", "head/bias", "decoder/layers/down/lora_a"} <= chosen
    assert len(chosen) == 16


def test_dropout_is_off_without_a_key_and_repeats_with_one(trained):
    config = dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, dropout=0.5))
    first = logits(config, trained, jax.random.key(1))
    np.testing.assert_array_equal(first, logits(config, trained, jax.random.key(1)))
    assert float(jnp.abs(first - logits(config, trained, jax.random.key(2))).max()) > 1e-3
    np.testing.assert_array_equal(logits(config, trained), logits(CONFIG, trained))


def test_adapters_stay_float32_on_a_narrow_base():
    params = jax.eval_shape(lambda: init_params(dataclasses.replace(CONFIG, param_dtype="bfloat16"), jax.random.key(0)))
    query = params["decoder"]["layers"]["q"]
    assert (query["kernel"].dtype, query["lora_a"].dtype) == (jnp.bfloat16, jnp.float32)


def test_unknown_target_is_refused():
    with pytest.raises(DataError, match=r"model\.lora\.targets: \['w'\] are no projections"):
        dataclasses.replace(BASE, lora=LoraConfig(rank=2, targets=("q", "w")))
