"""Screening of labelings and of bi-level design choices, with a small reward model that reads a program's structure.

Command:  python -m research.study --config=research/configs/screen.py --workdir=runs/study_screen
Cost:     about 5 seconds a fixed arm and 10 to 30 a learned one, on one core: 25 minutes on two cores
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_screen"
    config.seeds = (100, 101, 102)  # tuning seeds: no confirmation uses them
    config.regimes = ("k1", "k2", "k4", "k16", "weak_tests", "weak_completer", "family_bias")
    config.arms = (
        "raw",
        "raw:outcomes=0",
        "raw:clean=1",
        "orm",
        "smoothing",
        "gce",
        "beta_shrink",
        "em",
        "undetected_fault",
        "undetected_fault_online",
        "calibrator",
        "clean",
        "clean:target=value",
        "label_table:meta=same,rate=0.1",
        "weight_table:meta=same,rate=0.05",
        "corrector_net:rate=0.003,phase=retrain",
        "label_table:start=em,rate=0.1,phase=retrain",
    )
    return config
