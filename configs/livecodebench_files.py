"""Judges existing LiveCodeBench programs, with the official evaluator's verdicts (mode "lcb").

Command:  dreamprm evaluate --config=configs/livecodebench_files.py --problems=FILE --candidates=FILE --workdir=DIR
          FILE: problems as official rows (.jsonl); candidates as an eval_all .json, .jsonl or our .parquet
Cost:     CPU only; about a minute and a half for 880 programs on two cores
Expected: o1-mini's 880 programs (LiveCodeBench/submissions) on the tests recovered from statements and failure
          records: pass@1 73.4 (easy 94.6, medium 79.4, hard 44.2), compared with 68.3 on the full hidden tests; the
          880 programs have 942 function steps
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings for judging files."""
    config = defaults()
    config.name = "livecodebench_files"
    config.sandbox.mode = "lcb"
    return config
