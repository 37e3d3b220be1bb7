"""Joins candidates, verdicts and scores from user files into the same rows as in a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.aggregator_choice import AggregatorChoice
from dreamprm_jax.evaluation.judged_candidates import Candidates, candidate_name
from dreamprm_jax.evaluation.selection_results import selection_results
from dreamprm_jax.evaluation.strategy_results import strategy_results
from dreamprm_jax.problems.candidates import Candidate, CandidateFile
from dreamprm_jax.problems.json_rows import read_rows
from dreamprm_jax.problems.problem_files import iterate_problems
from dreamprm_jax.schema import DataError, Problem, Skip, Verdict
from dreamprm_jax.scoring.inputs import read_problems
from dreamprm_jax.storage import column_names, read_records, read_table

Key = tuple[str, str]  # problem_id, program_hash
PRUNE_TOP, SEED = 2, 0


@dataclass(frozen=True)
class ScoreFile:
    """Step logits of many programs by one model, as ``dreamprm score`` writes them."""

    model: str
    logits: Mapping[Key, np.ndarray]


@dataclass(frozen=True)
class KnownVerdict:
    """A verdict from a file."""

    passed: bool
    tests_passed: int | None = None  # before the first failure, public tests first


def read_scores(path: Path) -> ScoreFile:
    """Reads scores from .parquet, .jsonl or .csv: problem_id, program_hash, step_logits, and model.

    Raises:
      DataError: names the file, the row and the field; also if the file has scores of several models.
    """
    found: dict[Key, np.ndarray] = {}
    models: set[str] = set()
    for number, row in enumerate(read_table(path), 1):
        where = f"{path}, row {number}"
        logits = _field(row, "step_logits", where)
        try:
            values = np.asarray(json.loads(logits) if isinstance(logits, str) else logits, dtype=np.float64)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{where}, field step_logits: must be a list of numbers ({error})") from error
        found[str(_field(row, "problem_id", where)), str(_field(row, "program_hash", where))] = values.ravel()
        models.add(str(row.get("model") or path.stem))
    if not found:
        raise DataError(f"{path}: contains no score")
    if len(models) > 1:
        raise DataError(f"{path}: scores of several models ({', '.join(sorted(models))}); give each its own file")
    return ScoreFile(models.pop(), found)


def read_verdicts(path: Path) -> dict[Key, KnownVerdict]:
    """Reads verdicts that ``dreamprm judge`` wrote, without those that are not labels.

    Raises:
      DataError: names the file, the row and the field.
    """
    found = {}
    for number, row in enumerate(read_table(path), 1):
        where = f"{path}, row {number}"
        name, passed = str(_field(row, "verdict", where)), row.get("tests_passed")
        try:
            verdict = Verdict(name)
        except ValueError as error:
            raise DataError(f"{where}, field verdict: {name!r}; must be one of {', '.join(Verdict)}") from error
        try:
            tests_passed = None if passed in (None, "") else int(passed)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}, field tests_passed: {passed!r} is no number of tests") from error
        if verdict.is_label:
            key = str(_field(row, "problem_id", where)), str(_field(row, "program_hash", where))
            found[key] = KnownVerdict(verdict is Verdict.AC, tests_passed)
    return found


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if row.get(name) is None:
        raise DataError(f"{where}, field {name}: missing")
    return row[name]


def read_user_problems(path: str, release: str) -> dict[str, Problem]:
    """Problems by id, with public tests, difficulty and date if the file has them.

    Args:
      path: LiveCodeBench rows, Parquet of a run, or {problem_id, statement}.
      release: Release windows to read, if the path is a folder or hub id.

    Raises:
      DataError: names the file, the row and the field.
    """
    file = Path(path)
    if file.suffix == ".parquet" and "public_tests" in column_names(file):
        return {one.problem_id: one for one in read_records(file, Problem)}
    if file.suffix == ".jsonl" and any("statement" in row for _, row in islice(read_rows(file, []), 1)):
        return read_problems(path, release)
    found = iterate_problems(path, release, wants_tests=lambda _: False, packages=None)
    return {one.problem_id: one.split()[0] for one in found}


def by_problem(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """The candidates of each problem, in the file's order."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.program.problem_id, []).append(candidate)
    return groups


def join(
    file: CandidateFile,
    problems: Mapping[str, Problem],
    verdicts: Mapping[Key, KnownVerdict],
    scores: Sequence[ScoreFile],
) -> tuple[list[Candidates], list[Skip]]:
    """Joins candidates with a verdict into one row per problem, as ``load_candidates`` does for a run.

    Args:
      file: The candidates; those without usable code count as failed.
      problems: Problems by id, for difficulty, date and public tests; a missing problem has none of these.
      verdicts: Verdicts by program; they take precedence over the verdicts in the candidates file.
      scores: Score files, one per model.

    Raises:
      DataError: if no candidate has a verdict, or no score of a model belongs to a candidate.
    """
    skips, result = list(file.skips), []
    unusable = {id(one) for one in file.unusable}
    for problem_id, group in by_problem([*file.usable, *file.unusable]).items():
        problem = problems.get(problem_id) or Problem(problem_id, "", "", "", "", "", "")
        kept: list[tuple[Candidate, KnownVerdict]] = []
        for one in sorted(group, key=lambda one: one.program.sample_index):
            verdict = verdicts.get((problem_id, one.program.program_hash))
            if id(one) in unusable:
                verdict = KnownVerdict(False, 0)
            elif verdict is None and one.file_passed is not None:
                verdict = KnownVerdict(one.file_passed)
            if verdict is None:
                skips.append(Skip("verdicts", candidate_name(one.program), "no verdict"))
            else:
                kept.append((one, verdict))
        if not kept:
            skips.append(Skip("problems", problem_id, "no candidate with a verdict"))
            continue
        programs = tuple(one.program for one, _ in kept)
        logits: dict[str, tuple[np.ndarray, ...]] = {}
        for model in scores:
            rows = [model.logits.get((problem_id, program.program_hash), np.zeros(0)) for program in programs]
            for program, row in zip(programs, rows, strict=True):
                if not row.size or np.isnan(row).any():
                    skips.append(Skip(f"scores of {model.model}", candidate_name(program), "no score: ranks last"))
            logits[model.model] = tuple(np.zeros(0) if np.isnan(row).any() else row for row in rows)
        least = len(problem.public_tests)
        passes = [v.passed or (v.tests_passed if v.tests_passed is not None else -1) >= least for _, v in kept]
        known = least and all(v.passed or v.tests_passed is not None for _, v in kept)
        passed = np.array([float(v.passed) for _, v in kept])
        result.append(Candidates(problem, programs, passed, logits, np.array(passes) if known else None))
    if not result:
        raise DataError("no candidate has a verdict: give --verdicts, or candidates with a field passed or graded_list")
    for model in scores:
        if not any(row.size for one in result for row in one.logits[model.model]):
            raise DataError(f"scores of {model.model}: none belongs to a candidate; were they made from this file?")
    return result, skips


def evaluate_user_candidates(
    name: str, candidates: Sequence[Candidates], models: Sequence[str], aggregator: str, samples: int
) -> dict[str, Any]:
    """The results of the evaluate stage, except those that only a run has: votes, costs and exact truth."""
    choice = AggregatorChoice(aggregator, "set on the command line", {})
    return {
        "name": name,
        "source": "files",
        "seed": SEED,
        "bootstrap_samples": samples,
        "aggregator": aggregator,
        "aggregator_choice": asdict(choice),
        "arms": list(models),
        "selection": selection_results(candidates, models, aggregator, samples, SEED),
        "strategies": strategy_results(candidates, models, aggregator, None, None, PRUNE_TOP, samples, SEED),
        "steps": None,
        "labels": None,
        "notes": [],
    }
