"""The paper's method (DreamPRM-Code, arXiv 2512.15000) on the embedded benchmark: the noisy labels are learned.

Command:  dreamprm run --config=configs/paper/label_table.py --workdir=runs/paper_label_table
Cost:     twelve minutes on two CPU cores, most of it 16 rollouts a prefix
Expected: docs/label_correction.md. At the paper's own size: configs/qwen2_5_coder_3b.py (GPUs and a policy server)

Kept from the paper: 16 rollouts of each prefix at T=0.3, functions as steps, soft labels, one program a problem;
warm-up of five epochs on steps and outcomes; one inner AdamW step between outer ones, clip 1, weight decay 0.01; outer
Adam on the labels themselves, weight decay 0.002, through the exact hypergradient; the meta set is whole programs with
their outcomes; the last step's score selects. Changed with the size: the model (0.9 million parameters from scratch
instead of LoRA on 3 billion), its learning rate, 140 bi-level steps instead of 10,000, and the outer rate with them.
"""

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
    config.train.arms = ("orm", "raw", "corrected")
    config.train.labels.method = "label_table"
    config.train.meta.learning_rate = 0.1  # 0.01 over 10,000 steps
    config.train.meta.weight_decay = 0.002
    config.evaluate.aggregator = "last"
    return config
