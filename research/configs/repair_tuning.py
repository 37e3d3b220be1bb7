"""Repair: completers that save what cannot be saved. Tuning seeds; the default labels and aggregator are chosen here.

Command:  python -m research.study --config=research/configs/repair_tuning.py --workdir=runs/study_repair_tuning
Cost:     about a minute of one core for each regime and seed
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural

CELLS = ("k1", "k4_repair5", "k16_repair5", "weak_tests_repair5")


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_repair_tuning"
    config.seeds = (100,)
    config.regimes = CELLS
    config.arms = ("raw", "closure", "closure_mixture", "undetected_fault", "undetected_fault_online", "clean")
    return config
