"""The paper's method (DreamPRM-Code, arXiv 2512.15000) on the embedded benchmark: learned step labels.

Command:  dreamprm run --config=configs/paper/label_table.py --workdir=runs/paper_label_table
Cost:     twelve minutes on two CPU cores, most of it for 16 rollouts per prefix
Expected: docs/label_correction.md. For the paper's size: configs/qwen2_5_coder_3b.py (GPUs and a policy server)

docs/reproduction.md lists all differences from the paper and the released code. The differences due to the size are the
model (0.9 million parameters from scratch instead of LoRA on 3 billion), its learning rate, the 140 bi-level steps, and
an outer learning rate that changes labels noticeably within these steps.
"""

from pathlib import Path

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the paper's method."""
    config = defaults()
    config.name = "paper_label_table"

    config.problems.train_count = 1200
    config.problems.meta_count = 400
    config.problems.test_count = 120
    config.generate.train_programs = 1
    config.generate.test_programs = 8
    config.label.rollouts = 16
    config.label.reuse = "none"

    config.model.tokenizer_pieces = "lines"
    config.train.row_tokens = 384
    config.train.warmup_steps = 260  # five epochs
    config.train.steps = 140
    config.train.loss = "mse"
    config.train.optimizer = f"{Path(__file__).parents[2] / 'research' / 'torch_adam.py'}:torch_adam"
    config.train.adam_b2 = 0.999
    config.train.arms = ("orm", "raw", "corrected")
    config.train.labels.method = "label_table"
    config.train.meta.learning_rate = 0.5  # the paper: 0.01 over 10,000 iterations; 0.1 changes labels by 0.02 here
    config.train.meta.weight_decay = 0.002
    config.evaluate.aggregator = "last"
    return config
