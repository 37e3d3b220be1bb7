"""Selects the best candidate of each problem and writes them as programs, an eval_all file or a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dreamprm_jax.evaluation.user_candidates import Key, ScoreFile
from dreamprm_jax.problems.candidates import Candidate
from dreamprm_jax.schema import DataError, arrow_schema
from dreamprm_jax.selection.aggregators import aggregate, as_probability
from dreamprm_jax.selection.best_of_n import choose
from dreamprm_jax.selection.execution_rules import filter_numbers
from dreamprm_jax.selection.reward_models import arm_aggregator
from dreamprm_jax.storage import ENDINGS, write_table, write_text


@dataclass(frozen=True)
class Chosen:
    """The selected candidate of one problem."""

    problem_id: str
    program_hash: str
    sample_index: int
    score: float | None  # in [0, 1]; None if no candidate has a score
    candidates: int
    scored: int
    passes_public: bool | None  # None if no public tests were run
    tied: int  # candidates with the highest rank, including this one
    code: str


def pick(
    problem_id: str, group: Sequence[Candidate], scores: ScoreFile, aggregator: str, public: Mapping[Key, bool] | None
) -> Chosen:
    """Selects the candidate with the highest score, and the first one of tied candidates.

    Args:
      problem_id: Id of the problem.
      group: Its usable candidates, at least one.
      scores: Scores of one reward model; a candidate without a score ranks last.
      aggregator: Aggregator of the step scores; for an outcome model, "last" is used instead.
      public: Program -> whether it passes the public tests; programs that pass rank first. None if tests were not run.
    """
    programs = [one.program for one in group]
    keys = [(problem_id, program.program_hash) for program in programs]
    aggregator = arm_aggregator(scores.model, aggregator)
    numbers = aggregate([scores.logits.get(key, np.zeros(0)) for key in keys], aggregator)
    passes = None if public is None or not any(k in public for k in keys) else [public.get(key, False) for key in keys]
    ranks = numbers if passes is None else filter_numbers(numbers, np.array(passes))
    best = choose(ranks)
    index = int(best[0])
    score = float(as_probability(numbers[[index]], aggregator)[0])
    return Chosen(
        problem_id=problem_id,
        program_hash=programs[index].program_hash,
        sample_index=programs[index].sample_index,
        score=None if np.isnan(score) else score,
        candidates=len(programs),
        scored=int((~np.isnan(numbers)).sum()),
        passes_public=None if passes is None else passes[index],
        tied=len(best),
        code=programs[index].code,
    )


def write_chosen(path: Path, chosen: Sequence[Chosen]) -> None:
    """Writes a folder of programs, LiveCodeBench's custom evaluator input (.json) or a table, according to the path."""
    if path.suffix in ENDINGS:
        table = pa.Table.from_pylist([asdict(one) for one in chosen], arrow_schema(Chosen))
        write_table(path, arrow_schema(Chosen), [table])
    elif path.suffix == ".json":
        rows = [{"question_id": one.problem_id, "code_list": [one.code]} for one in chosen]
        write_text(path, json.dumps(rows, indent=1) + "\n")
    else:
        for one, name in zip(chosen, _file_names(one.problem_id for one in chosen), strict=True):
            write_text(path / name, one.code)


def check_output(path: Path) -> None:
    """Raises DataError if ``write_chosen`` cannot write to this path."""
    if path.suffix not in (*ENDINGS, ".json", ""):
        raise DataError(f"--output={path}: must be a folder or a file ending in .json, {', '.join(ENDINGS)}")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"--output={path}: exists and is not an empty folder; name a new one")


def _file_names(problem_ids: Iterable[str]) -> list[str]:
    """A file name for each problem: its id, made safe and unique."""
    names: list[str] = []
    taken: set[str] = set()
    for problem_id in problem_ids:
        stem = re.sub(r"[^\w.-]", "_", problem_id).lstrip(".")[:120] or "problem"
        name, number = f"{stem}.py", 2
        while name.lower() in taken:
            name, number = f"{stem}-{number}.py", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
