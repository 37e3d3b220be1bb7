"""Screening of labellings and of bi-level design choices, with a small reward model that reads a program's structure.

Command:  dreamprm study --config=configs/study/screen.py --workdir=runs/study_screen
Cost:     about 5 seconds a fixed arm and 10 a learned one, on one core
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from dreamprm_jax.study.settings import study_defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = study_defaults()
    config.name = "study_screen"
    config.reading = "structure"
    config.seeds = (100, 101, 102)  # tuning seeds: no confirmation uses them
    config.regimes = ("k1", "k2", "k4", "k16", "weak_tests", "weak_completer", "family_bias")
    config.arms = (
        "raw",
        "raw:outcomes=0",
        "raw:clean=1",
        "orm",
        "soft",
        "hard",
        "smoothing",
        "gce",
        "beta_shrink",
        "value",
        "em",
        "hidden_fault",
        "hidden_fault_prm",
        "calibrator",
        "clean",
        "clean:target=value",
        "label_table",
        "weight_table",
        "corrector_net:rate=0.03",
        "label_table:start=em",
    )
    config.baseline = "raw"
    config.sizes.train = 1200
    config.sizes.meta = 400
    config.sizes.test = 200
    config.model.hidden_size = 64
    config.model.intermediate_size = 192
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.num_kv_heads = 4
    config.recipe.steps = 400
    return config
