"""Repair with the embedded text reward model. Exploration: no family of research/comparisons.md holds it.

Command:  python -m research.study --config=research/configs/repair_text.py --workdir=runs/study_repair_text
Cost:     35 to 100 seconds of one core an arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = text()
    config.name = "study_repair_text"
    config.seeds = (5000, 5001)
    config.regimes = ("k4_repair5", "k1")
    config.arms = ("raw", "closure", "undetected_fault_online", "clean")
    return config
