"""The other baselines, one setting each, where completers repair and where they do not.

Command:  python -m research.study --config=research/configs/repair_baselines.py --workdir=runs/study_repair_baselines
Cost:     about a minute and a half of one idle core for each regime and seed
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_repair_baselines"
    config.seeds = (100, 101)
    config.regimes = ("k1", "k4_repair5")
    config.arms = (
        "raw",
        "raw_with_outcome",
        "outcome",
        "orm",
        "closure",
        "scan",
        "nait",
        "self_training",
        "undetected_fault",
        "undetected_fault_online",
    )
    return config
