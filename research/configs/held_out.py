"""Test problems whose mistakes, or some of whose primitives, no training problem has: the structural model.

Command:  python -m research.study --config=research/configs/held_out.py --workdir=runs/study_held_out_mistakes
          (--config.sizes.held_out=primitives --workdir=runs/study_held_out_primitives)
Cost:     about 10 seconds of one idle core an arm
Expected: docs/label_correction.md. The text model's seed there took presets.text(), seed 100
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_held_out"
    config.sizes.held_out = "mistakes"
    config.seeds = (8000, 8001, 8002)
    config.regimes = ("k4_repair5",)
    config.arms = ("raw", "closure", "undetected_fault_online", "clean")
    return config
