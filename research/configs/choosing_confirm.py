"""Choosing with the text reward model, on held-out seeds: family T of research/comparisons.md.

Command:  python -m research.study --config=research/configs/choosing_confirm.py --workdir=runs/study_choosing_confirm
Tuning:   --config.sizes.test=300 --config.seeds="(100,)" --config.regimes="('k1',)", with the arms of
          research/results/choosing/study.csv (study_choosing)
Cost:     80 seconds of one idle core an arm: an hour and a half on one core
Expected: docs/label_correction.md; an arm took 75 to 150 seconds of a shared core
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    config = text()
    config.name = "study_choosing_confirm"
    config.sizes.test = 400
    config.seeds = tuple(range(7000, 7005))
    config.regimes = ("k1", "k4_repair5", "weak_tests_repair5")
    config.arms = ("raw", "undetected_fault_online", "undetected_fault_online:value_head=1", "clean")
    return config
