"""The paper's label table and the released code's weight table as they run, each beside its frozen control.

Command:  python -m research.study --config=research/configs/faithful.py --workdir=runs/study_faithful
Cost:     5 to 60 seconds of one idle core an arm
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural

PAPER = "label_table:two_stages=1,rate={rate},outer={outer}"


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_faithful"
    config.seeds = (100, 101)
    config.regimes = ("k1",)
    config.arms = (
        "raw",
        "label_table:two_stages=1,frozen=1",
        *(PAPER.format(rate=rate, outer=outer) for outer in ("last", "mean", "sum") for rate in (0.5, 2)),
        "release_weight_table",
        "release_weight_table:frozen=1",
        "undetected_fault_online",
    )
    return config
