"""The whole system on two CPU cores, offline, on the procedural benchmark with exact truth.

Command:  dreamprm run --config=configs/embedded.py --workdir=runs/embedded   (or: bash launch/local.sh)
Cost:     15 CPU minutes with installation, on two idle cores
Expected: README.md, its first table
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the embedded run."""
    config = defaults()
    config.name = "embedded"

    config.problems.train_count = 1200
    config.problems.meta_count = 400
    config.problems.test_count = 400  # scoring is cheap, and more problems give shorter intervals
    config.generate.train_programs = 1  # many problems with one program each are better than few with many
    config.generate.test_programs = 8
    config.label.rollouts = 4

    config.model.tokenizer_pieces = "lines"  # a third of the tokens and of the time of "words"
    config.train.row_tokens = 384
    config.train.warmup_steps = 260
    config.train.steps = 140
    config.train.arms = ("orm", "raw", "closure", "corrected")  # corrected: undetected_fault_online, the default
    return config
