"""The finalists with the text reward model, trained three times as long: which labels last?

Command:  python -m research.study --config=research/configs/confirm_long.py --workdir=runs/study_confirm_long
Cost:     see docs/label_correction.md; resumable arm by arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = text()
    config.name = "study_confirm_long"
    config.recipe.steps = 900
    config.seeds = tuple(range(1000, 1003))
    config.regimes = ("k1",)
    config.arms = ("raw", "undetected_fault", "undetected_fault_online", "clean")
    return config
