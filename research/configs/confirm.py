"""Confirmation of the finalists with the embedded text reward model, on ten seeds.

Command:  python -m research.study --config=research/configs/confirm.py --workdir=runs/study_confirm
Longer:   --config.recipe.steps=900 --config.seeds="(1000,1001,1002)" --config.regimes="('k1',)" (study_confirm_long)
Cost:     75 to 100 seconds of one core an arm: two and a half hours on two cores; resumable arm by arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    config = text()
    config.name = "study_confirm"
    config.seeds = tuple(range(1000, 1010))
    config.regimes = ("k1", "weak_tests", "family_bias")
    config.arms = (
        "raw",
        "em",
        "undetected_fault",
        "undetected_fault_online",
        "label_table:meta=same,rate=0.1",
        "clean",
        "clean:target=value",
    )
    return config
