"""Confirmation of the finalists with the small structural reward model, on ten seeds that nothing was chosen by.

Command:  python -m research.study --config=research/configs/confirm_structure.py --workdir=runs/study_confirm_structure
Cost:     100 seconds of one core for each regime and seed: 35 minutes on two cores
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_confirm_structure"
    config.seeds = tuple(range(2000, 2010))  # 1000 to 1009 were looked at before the method was final
    config.regimes = ("k1", "weak_tests", "family_bias", "k4")
    config.arms = (
        "raw",
        "em",
        "undetected_fault",
        "undetected_fault_online",
        "label_table:meta=same",
        "label_table:start=undetected_fault,rate=0.1,phase=retrain",
        "clean",
        "clean:target=value",
    )
    return config
