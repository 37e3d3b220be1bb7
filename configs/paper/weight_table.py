"""The authors' released code (ruz048/DreamPRM-Code) on the embedded benchmark: a learned weight for each sample.

Command:  dreamprm run --config=configs/paper/weight_table.py --workdir=runs/paper_weight_table
Cost:     twelve minutes on two CPU cores, most of it for 16 rollouts per prefix
Expected: docs/label_correction.md

This is the trainer's closest approximation; docs/reproduction.md lists the differences. The study's arm
``release_weight_table`` (research/configs/faithful.py) reproduces the released training update by update, and is tested
against its library, betty.
"""

from pathlib import Path

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the released code."""
    config = defaults()
    config.name = "paper_weight_table"

    config.problems.train_count = 1200
    config.problems.meta_count = 400
    config.problems.test_count = 120
    config.generate.train_programs = 1
    config.generate.test_programs = 8
    config.label.rollouts = 16
    config.label.reuse = "none"

    config.model.tokenizer_pieces = "lines"
    config.train.row_tokens = 384
    config.train.batch_size = 8
    config.train.accumulation = 8
    config.train.warmup_steps = 260  # five epochs
    config.train.steps = 144
    config.train.loss = "mse"
    config.train.optimizer = f"{Path(__file__).parents[2] / 'research' / 'torch_adam.py'}:torch_adam"
    config.train.adam_b2 = 0.999
    config.train.arms = ("orm", "raw", "corrected")
    config.train.labels.method = "weight_table"
    config.train.meta.method = "finite_difference"
    config.train.meta.every = 8  # one outer update for eight inner updates
    config.train.meta.learning_rate = 0.1  # the released code: 0.01 over 156 outer updates
    config.train.meta.weight_decay = 0.002
    config.train.meta.accumulation = 8
    config.evaluate.aggregator = "last"
    return config
