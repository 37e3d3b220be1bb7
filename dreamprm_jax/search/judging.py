"""Judges what searches chose: public tests first where the budget has runs for them, then all tests, to evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dreamprm_jax.config import Config
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Problem, Verdict, program_hash
from dreamprm_jax.search.methods import Candidate
from dreamprm_jax.search.table import BASELINE, MethodOutcome

Place = tuple[str, str]  # problem id, code


@dataclass(frozen=True)
class Found:
    """What one search found for one problem."""

    candidates: list[Candidate]  # best first
    tokens: int
    forwards: int


def judge_searches(
    config: Config, problems: Sequence[Problem], found: Mapping[str, Mapping[str, Found]], journal_path: Path
) -> tuple[list[MethodOutcome], list[dict[str, Any]]]:
    """The outcome of every method, and a row for each of its choices.

    All programs of best-of-N are judged too: their mean is what a random one of these distinct texts comes to, their
    maximum the most that choosing among them can.

    Args:
      config: ``search.judged`` candidates of a problem may be run on its public tests, best first, up to the first
        pass, which is then chosen; ``sandbox`` says how.
      problems: that were searched.
      found: method -> problem id -> its search.
      journal_path: keeps verdicts.

    Raises:
      DataError: where the sandbox failed; what it judged is kept.
    """
    most = config.search.judged
    with Journal(journal_path) as journal, Judge.from_config(config.sandbox) as judge:
        public = [
            (problem, candidate.code)
            for problem in problems
            if problem.public_tests
            for searches in found.values()
            for candidate in searches[problem.problem_id].candidates[:most]
        ]
        passes_public = _judge(judge, journal, public, public_only=True)
        chosen: dict[str, list[tuple[Candidate | None, int]]] = {
            method: [
                choose(searches[one.problem_id].candidates, one.problem_id, most, passes_public) for one in problems
            ]
            for method, searches in found.items()
        }
        final = [
            (problem, candidate.code)
            for choices in chosen.values()
            for problem, (candidate, _) in zip(problems, choices, strict=True)
            if candidate is not None
        ]
        pool = found.get(BASELINE, {})
        final += [(one, c.code) for one in problems if one.problem_id in pool for c in pool[one.problem_id].candidates]
        passed = _judge(judge, journal, final, public_only=False)
    outcomes, rows = [], []
    for method, searches in found.items():
        solved = [
            float(candidate is not None and passed[problem.problem_id, candidate.code])
            for problem, (candidate, _) in zip(problems, chosen[method], strict=True)
        ]
        own = [searches[one.problem_id] for one in problems]
        runs = [count for _, count in chosen[method]]
        if method == BASELINE:
            outcomes += _pool(problems, own, passed)
        outcomes.append(_outcome(method, solved, own, runs))
        for problem, value, (candidate, _) in zip(problems, solved, chosen[method], strict=True):
            name = program_hash(problem.problem_id, candidate.code) if candidate else ""
            rows.append({"method": method, "problem_id": problem.problem_id, "solved": value, "program_hash": name})
    return outcomes, rows


def choose(
    candidates: Sequence[Candidate], problem_id: str, most: int, passes_public: Mapping[Place, bool]
) -> tuple[Candidate | None, int]:
    """Prune-then-execute: the first of the ``most`` best that passes the public tests, else the best.

    Returns:
      The choice, None without candidates; and how many were run.
    """
    runs = 0
    for candidate in candidates[:most]:
        known = passes_public.get((problem_id, candidate.code))
        if known is None:  # the problem has no public tests
            break
        runs += 1
        if known:
            return candidate, runs
    return (candidates[0] if candidates else None), runs


def _outcome(method: str, solved: Sequence[float], own: Sequence[Found], runs: Sequence[int]) -> MethodOutcome:
    return MethodOutcome(
        method,
        np.array(solved),
        np.array([one.tokens for one in own], dtype=float),
        np.array([len(one.candidates) for one in own], dtype=float),
        np.array([one.forwards for one in own], dtype=float),
        np.array(runs, dtype=float),
    )


def _pool(problems: Sequence[Problem], own: Sequence[Found], passed: Mapping[Place, bool]) -> list[MethodOutcome]:
    """A random one of best-of-N's distinct programs, and the best of them in hindsight."""
    values = [
        [float(passed[problem.problem_id, candidate.code]) for candidate in one.candidates] or [0.0]
        for problem, one in zip(problems, own, strict=True)
    ]
    none = np.zeros(len(problems))
    tokens = np.array([one.tokens for one in own], dtype=float)
    count = np.array([len(one.candidates) for one in own], dtype=float)
    random = np.array([np.mean(row) for row in values])
    best = np.array([max(row) for row in values])
    return [
        MethodOutcome("random", random, tokens / np.maximum(count, 1), np.minimum(count, 1), none, none),
        MethodOutcome("pool", best, tokens, count, none, none),
    ]


def _judge(
    judge: Judge, journal: Journal, programs: Sequence[tuple[Problem, str]], public_only: bool
) -> dict[Place, bool]:
    """Whether each program passes; a task that cannot be judged counts as failed, for every method alike."""
    tasks = {}
    for problem, code in programs:
        tests = problem.public_tests if public_only else problem.tests
        key = f"{'public' if public_only else 'all'}/{program_hash(problem.problem_id, code)}"
        tasks[problem.problem_id, code] = JudgeTask(key, code, tests, problem.func_name)
    todo = [task for task in tasks.values() if task.key not in journal]
    failed = 0
    name = "public tests" if public_only else "judge choices"
    for result in tqdm(judge.evaluate(todo), name, len(tasks), initial=len(tasks) - len(todo), unit="program"):
        if result.verdict is Verdict.SANDBOX_ERROR:
            failed += 1  # not kept: judged again next time
        else:
            journal.put(result.key, result.verdict.value)
    if failed:
        raise DataError(f"the sandbox failed on {failed} programs; run the same command again to judge them")
    return {place: journal.get(task.key) == Verdict.AC.value for place, task in tasks.items()}
