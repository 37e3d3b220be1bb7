"""The embedded main job: the whole system on two CPU cores, offline, on the procedural benchmark with exact truth.

Command:  dreamprm run --config=configs/embedded.py --workdir=runs/embedded   (or: bash launch/local.sh)
Cost:     five minutes on two CPU cores
Expected: best of 8 (seed 0): random 45.8, ORM 73.3, PRM 75.8 on raw and 74.2 on corrected labels, oracle 95.8; between
          the three models the 95% intervals of the paired differences hold zero
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the embedded job."""
    config = defaults()
    config.name = "embedded"

    config.problems.train_count = 1200
    config.problems.meta_count = 400
    config.problems.test_count = 120
    config.generate.train_programs = 1  # many problems teach more than many programs of few
    config.generate.test_programs = 8
    config.label.rollouts = 4

    config.model.tokenizer_pieces = "lines"  # a third of the tokens, and of the time, that words would take
    config.train.row_tokens = 384
    config.train.warmup_steps = 260
    config.train.steps = 140
    config.train.meta.learning_rate = 0.5  # a label is visited a few times only
    config.train.meta.held_out = True  # outcomes that the inner loss has learned by heart say little of the labels
    return config
