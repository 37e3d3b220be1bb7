"""The labels alone: rollouts a prefix x repair x regime, eight labelings that need no clean label.

Command:  python -m research.study labels --config=research/configs/labels.py --workdir=runs/study_labels
Cost:     15 minutes of one core; resumable cell by cell
Expected: docs/label_correction.md
"""

import dataclasses

from ml_collections import config_dict

from research.study.label_grid import LabelGridSettings


def get_config() -> config_dict.ConfigDict:
    return config_dict.ConfigDict(dataclasses.asdict(LabelGridSettings()))
