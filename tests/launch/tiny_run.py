"""A whole run that takes seconds, for the launch scripts: three problems per window, a model with one layer."""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the tiny run. Batches of four rows can be divided over up to four devices."""
    config = defaults()
    config.name = "tiny_launch"
    config.problems.train_count = config.problems.meta_count = config.problems.test_count = 3
    config.problems.private_tests = 3
    config.generate.train_programs = config.generate.test_programs = 2
    config.label.rollouts = 2
    config.sandbox.workers = config.engine.workers = 1
    config.model.update(
        vocab_size=1000, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1
    )
    config.train.update(arms=("raw",), warmup_steps=4, steps=24, batch_size=4, log_every=1, checkpoint_every=100)
    config.train.meta.batch_size = 4
    config.model.tokenizer_pieces = "lines"
    config.score.update(row_tokens=512, batch_tokens=1024)
    config.evaluate.bootstrap_samples = 200
    return config
