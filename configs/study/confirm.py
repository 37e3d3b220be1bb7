"""Confirmation of the finalists with the embedded text reward model, on fresh seeds.

Command:  dreamprm study --config=configs/study/confirm.py --workdir=runs/study_confirm
Cost:     see docs/label_correction.md; resumable arm by arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from dreamprm_jax.study.settings import study_defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = study_defaults()
    config.name = "study_confirm"
    config.reading = "text"
    config.seeds = tuple(range(1000, 1010))
    config.regimes = ("k1", "weak_tests", "family_bias")
    config.arms = (
        "raw",
        "hidden_fault",
        "clean",
        "hidden_fault_prm",
        "label_table:meta=same,rate=0.1",
    )
    config.rounds = 1
    config.baseline = "raw"
    config.sizes.train = 1200
    config.sizes.meta = 400
    config.sizes.test = 120
    config.model.tokenizer_pieces = "lines"
    config.row_tokens = 192
    config.rows = 8
    config.recipe.learning_rate = 2e-3
    config.recipe.steps = 300
    return config
