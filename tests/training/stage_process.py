"""Run by test_processes.py: runs some stages of a run in one of several processes.

``python stage_process.py CONFIG.json WORKDIR STAGE,...``: the settings contain the rank of the process.
"""

import json
import sys
from pathlib import Path

from dreamprm_jax.config import freeze
from dreamprm_jax.stages.runner import run_stage


def main(settings: str, workdir: str, stages: str) -> None:
    config = freeze(json.loads(Path(settings).read_text(encoding="utf-8")))
    for name in stages.split(","):
        run_stage(config, Path(workdir), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
