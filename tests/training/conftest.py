"""A micro model with its parameters and settings, and a small tokenizer."""

import jax
import pytest
from training_toy import MICRO

from dreamprm_jax.config import MetaConfig, TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import init_params
from dreamprm_jax.models.tokenizer import prompt_text, train_tokenizer


@pytest.fixture(scope="session")
def micro() -> DecoderConfig:
    return MICRO


@pytest.fixture(scope="session")
def micro_params():
    """Parameters with logits of order one, so that differences are visible."""
    params = jax.jit(init_params, static_argnums=0)(MICRO, jax.random.key(0))
    return params | {"head": jax.tree.map(lambda leaf: 40 * leaf, params["head"])}


@pytest.fixture(scope="session")
def micro_train() -> TrainConfig:
    return TrainConfig(
        warmup_steps=2, steps=6, batch_size=2, row_tokens=32, learning_rate=3e-3, log_every=1, checkpoint_every=2,
        evaluate_every=4,
        meta=MetaConfig(batch_size=2),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(benchmark):
    return train_tokenizer([prompt_text(problem) for _, problem, _ in benchmark[:30]], 400)
