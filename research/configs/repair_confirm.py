"""Repair, on held-out seeds: the comparisons that research/comparisons.md names before the results.

Command:  python -m research.study --config=research/configs/repair_confirm.py --workdir=runs/study_repair_confirm
Cost:     about a minute of one idle core for each regime and seed
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_repair_confirm"
    config.seeds = tuple(range(4000, 4005))
    config.regimes = ("k1", "k1_repair5", "k4", "k4_repair5", "k16_repair5", "weak_tests_repair5")
    config.arms = ("raw", "closure", "closure_mixture", "undetected_fault_online", "clean")
    return config
