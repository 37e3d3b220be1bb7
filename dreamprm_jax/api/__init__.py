"""The Python interface: takes plain strings, tuples and dicts, returns small frozen dataclasses.

    import dreamprm_jax as dp

    prm = dp.load_prm("runs/embedded/corrected")
    for step in prm.score(statement, code).steps:
        print(f"{step.score:.2f}  {step.name}")
    print(prm.best_of(statement, candidates).code)

All names below are attributes of ``dreamprm_jax``. Only ``load_prm`` and ``make_meta_gradient`` load jax.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamprm_jax.api.judging import Test, judge
from dreamprm_jax.api.model import RewardModel, Task, load_prm
from dreamprm_jax.api.results import BestOf, CodeStep, Judgment, ScoredProgram, ScoredStep
from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import DataError, Granularity
from dreamprm_jax.selection.best_of_n import best_of_k

__all__ = [
    "BestOf",
    "CodeStep",
    "Judgment",
    "RewardModel",
    "ScoredProgram",
    "ScoredStep",
    "Task",
    "Test",
    "best_of_n",
    "extract",
    "judge",
    "load_prm",
    "split",
]


def split(code: str, granularity: Granularity = "function") -> tuple[CodeStep, ...]:
    """Splits a program into steps.

    Args:
      code: Any text, even if Python cannot parse it.
      granularity: Definition of a step: "function", "class", "block" or "line".

    Returns:
      At least one step; their concatenated code is ``code``.
    """
    return tuple(CodeStep(one.name, code[one.start : one.end]) for one in split_steps(code, granularity))


def extract(answer: str) -> str:
    """The program in a model's answer (fences, reasoning and prose removed); "" if there is none."""
    return extract_code(answer)


def best_of_n(
    scores: Sequence[float | ScoredProgram], passed: Sequence[bool | Judgment], n: int | None = None
) -> float:
    """The expected accuracy of selecting the highest score, exact over ties and over all subsets of ``n`` candidates.

    The mean over problems is best-of-N accuracy.

    Args:
      scores: Scores of one problem's candidates; NaN ranks last.
      passed: Whether each candidate is correct.
      n: Number of candidates drawn; None: all.

    Raises:
      DataError: if the lengths differ, or ``n`` is not between 1 and the number of candidates.
    """
    numbers, outcomes = [float(one) for one in scores], [float(bool(one)) for one in passed]
    count = len(numbers) if n is None else n
    if len(numbers) != len(outcomes) or not 1 <= count <= len(numbers):
        raise DataError(
            f"{len(numbers)} scores, {len(outcomes)} outcomes, n={count}: the lengths must be equal, and n at most that"
        )
    return best_of_k(np.array(numbers), np.array(outcomes), count)
