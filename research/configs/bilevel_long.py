"""Do learned labels need more visits? Ten times the steps: a label is visited about 75 times while the table learns.

Command:  python -m research.study --config=research/configs/bilevel_long.py --workdir=runs/study_bilevel_long
Cost:     1 to 4 minutes an arm on one core
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = structural()
    config.name = "study_bilevel_long"
    config.seeds = (100,)
    config.regimes = ("k1",)
    config.recipe.steps = 4000
    config.warm_share = 0.1
    config.arms = (
        "raw",
        "undetected_fault",
        "undetected_fault_online",
        "clean",
        "label_table:meta=same,rate=0.02",
        "label_table:rate=0.02,phase=retrain",
        "label_table:outcomes=0,rate=0.02,phase=retrain",
        "label_table:start=undetected_fault,rate=0.02,phase=retrain",
    )
    return config
