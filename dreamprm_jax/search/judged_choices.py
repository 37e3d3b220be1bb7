"""Judges the programs that searches select: on public tests within the budget, then on all tests for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.sandbox.judging import judge_into
from dreamprm_jax.schema import DataError, Problem, Verdict, program_hash
from dreamprm_jax.search.algorithms import SearchCandidate, SearchResult
from dreamprm_jax.search.results import BASELINE, MethodOutcome

Place = tuple[str, str]  # problem id, code


def judge_searches(
    config: Config,
    problems: Sequence[Problem],
    tests: HiddenTests,
    found: Mapping[str, Mapping[str, SearchResult]],
    journal_path: Path,
) -> tuple[list[MethodOutcome], list[dict[str, Any]]]:
    """The outcome of every method, and one row per selected program.

    All programs of best-of-N are also judged. The mean of their outcomes is the accuracy of a random choice among
    distinct programs, and the maximum is the accuracy of the oracle.

    Args:
      config: ``search.judged`` is the number of candidates of a problem that may be run on its public tests, best
        first; the first that passes is selected. ``sandbox`` has the settings of the judge.
      problems: The searched problems.
      tests: Their hidden tests.
      found: Method -> problem id -> search result, best candidate first.
      journal_path: Journal of the verdicts.

    Raises:
      DataError: if the sandbox failed; the verdicts so far are kept.
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
        passes_public = _judge(judge, journal, tests, public, public_only=True)
        chosen: dict[str, list[tuple[SearchCandidate | None, int]]] = {
            method: [
                prune_then_execute(searches[one.problem_id].candidates, one.problem_id, most, passes_public)
                for one in problems
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
        passed = _judge(judge, journal, tests, final, public_only=False)
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


def prune_then_execute(
    candidates: Sequence[SearchCandidate], problem_id: str, most: int, passes_public: Mapping[Place, bool]
) -> tuple[SearchCandidate | None, int]:
    """Prune-then-execute: the first of the ``most`` best candidates that passes the public tests, else the best one.

    Returns:
      The selected candidate (None without candidates), and the number of programs run.
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


def _outcome(method: str, solved: Sequence[float], own: Sequence[SearchResult], runs: Sequence[int]) -> MethodOutcome:
    count = np.array([len(one.candidates) for one in own], dtype=float)  # each is scored once
    tokens = np.array([one.tokens for one in own], dtype=float)
    return MethodOutcome(method, np.array(solved), tokens, count, count, np.array(runs, dtype=float))


def _pool(
    problems: Sequence[Problem], own: Sequence[SearchResult], passed: Mapping[Place, bool]
) -> list[MethodOutcome]:
    """Reference methods on best-of-N's distinct programs: a random choice, and the oracle."""
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
    judge: Judge, journal: Journal, tests: HiddenTests, programs: Sequence[tuple[Problem, str]], public_only: bool
) -> dict[Place, bool]:
    """Whether each program passes. A task that cannot be judged counts as failed for every method."""
    kind = "public" if public_only else "all"
    keys = {
        (problem.problem_id, code): f"{kind}/{program_hash(problem.problem_id, code)}" for problem, code in programs
    }
    problems = {problem.problem_id: problem for problem, _ in programs}

    def tasks() -> Iterator[JudgeTask]:
        for (problem_id, code), key in sorted(keys.items()):  # by problem, so that its tests are read once
            if key not in journal:
                problem = problems[problem_id]
                given = problem.public_tests if public_only else tests.all_of(problem)
                yield JudgeTask.of(problem, key, code, given)

    failed = judge_into(
        journal,
        judge,
        tasks(),
        lambda result: result.verdict.value,
        planned=len(keys),
        done=sum(key in journal for key in keys.values()),
        description="public tests" if public_only else "judge choices",
    )
    if failed:
        raise DataError(f"the sandbox failed on {len(failed)} programs; run the same command again to judge them")
    return {place: journal.get(key) == Verdict.AC.value for place, key in keys.items()}
