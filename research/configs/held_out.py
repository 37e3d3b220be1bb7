"""Test problems whose mistakes, or some of whose primitives, no training problem has.

Command:  python -m research.study --config=research/configs/held_out.py --workdir=runs/study_held_out_mistakes
          (--config.sizes.held_out=primitives --workdir=runs/study_held_out_primitives)
Cost:     35 to 100 seconds of one idle core an arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import text


def get_config() -> config_dict.ConfigDict:
    """Settings of the study."""
    config = text()
    config.name = "study_held_out"
    config.sizes.held_out = "mistakes"
    config.seeds = (100,)
    config.regimes = ("k4_repair5",)
    config.arms = ("raw", "closure", "undetected_fault_online", "clean")
    return config
