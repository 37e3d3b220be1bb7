"""Choosing among programs with the text reward model: a head for each target, certainty, hidden tokens. Tuning seed.

Command:  python -m research.study --config=research/configs/choosing.py --workdir=runs/study_choosing
Cost:     70 to 90 seconds of one idle core an arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    config = text()
    config.name = "study_choosing"
    config.sizes.test = 300
    config.seeds = (100,)
    config.regimes = ("k1",)
    config.arms = (
        "raw",
        "undetected_fault_online",
        "undetected_fault_online:mask=0.1",
        "undetected_fault_online:value_head=1",
        "clean",
    )
    return config
