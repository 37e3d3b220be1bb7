"""The labelings on real programs: CodeI/O references with wrong variants of their functions, every combination run.

Command:  python -m research.study codeio --config=research/configs/codeio.py --workdir=runs/study_codeio
Cost:     about 4 minutes of one core; resumable problem by problem
Expected: docs/label_correction.md
"""

import dataclasses

from ml_collections import config_dict

from research.study.codeio import CodeioSettings


def get_config() -> config_dict.ConfigDict:
    return config_dict.ConfigDict(dataclasses.asdict(CodeioSettings()))
