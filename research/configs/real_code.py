"""Reward heads on frozen SmolLM2-135M, on CodeI/O programs: family H of research/comparisons.md.

Command:  python -m research.study codeio-heads --config=research/configs/real_code.py --workdir=runs/study_real_code
Cost:     about 20 minutes of one core, most of it to read the programs once; resumable problem by problem
Expected: docs/experiments.md
"""

import dataclasses

from ml_collections import config_dict

from research.study.codeio_heads import HeadSettings


def get_config() -> config_dict.ConfigDict:
    config = config_dict.ConfigDict(dataclasses.asdict(HeadSettings()))
    config.programs.limits.problems = 136
    return config
