"""Compares the released code's inner optimizer, as the paper's configs use it, with torch."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.config import load_config
from dreamprm_jax.training.optimizer import make_optimizer


@pytest.mark.parametrize("name", ["paper/label_table", "paper/weight_table", "qwen2_5_coder_3b"])
def test_it_is_torch_s_adam_with_l2_and_a_linear_schedule(name):
    torch = pytest.importorskip("torch")
    config = load_config(f"configs/{name}.py", ["--config.train.warmup_steps=4", "--config.train.steps=6"]).train
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=5), jnp.float32)}
    theirs = torch.nn.Parameter(torch.tensor(np.asarray(params["w"])))
    adam = torch.optim.Adam(
        [theirs], lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, config.adam_b2)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / 10)
    state = optimizer.init(params)
    for _ in range(10):
        gradient = rng.normal(size=5).astype(np.float32) * 3
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], config.clip_norm)
        adam.step()
        schedule.step()
    np.testing.assert_allclose(params["w"], theirs.detach().numpy(), atol=1e-5)
