"""Joins the problems, programs, verdicts and scores of a window into one row per problem, and names skipped rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.policy.protocol import MEAN_LOG_PROBABILITY
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, Score, Skip
from dreamprm_jax.storage import read_records

DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Candidates:
    """The n judged candidates of one problem. A text that was sampled twice counts as two candidates."""

    problem: Problem
    programs: tuple[Program, ...]
    passed: np.ndarray  # (n,) float64, 0 or 1
    logits: Mapping[str, tuple[np.ndarray, ...]]  # arm -> step logits of each candidate; empty if it has no score
    public: np.ndarray | None = None  # (n,) bool: passes the public tests; None if the problem has none
    log_probability: np.ndarray | None = None  # (n,) mean per token as reported by the policy; NaN if unknown
    exact_log_probability: np.ndarray | None = None  # (n,) exact, for the simulated policy, whose reports are not


def candidate_name(program: Program) -> str:
    """The name of a candidate in messages and files."""
    return f"{program.problem_id}, sample {program.sample_index} ({program.program_hash[:12]})"


def load_candidates(paths: Paths, window: str, arms: Sequence[str]) -> tuple[list[Candidates], list[Skip]]:
    """Reads one window.

    Public tests are judged before the hidden ones, so a candidate passes them if it passes at least as many tests.

    Candidates without a verdict, or whose verdict is not a label (SANDBOX_ERROR, INVALID_TASK), are left out: they are
    not informative about selection. Candidates without a usable score stay in and rank last (``selection.best_of_n``).
    Both are named in the skips, as are problems without a remaining candidate.

    Returns:
      Problems in the order of their file, and the skips.

    Raises:
      DataError: if a file is missing or malformed, a program's problem is unknown, or nothing is left.
    """
    problems = read_records(paths.problems(window), Problem)
    programs = read_records(paths.programs(window), Program)
    outcomes = {(row.problem_id, row.program_hash): row for row in read_records(paths.outcomes(window), Outcome)}
    scores = {
        arm: {(row.problem_id, row.program_hash): row for row in read_records(paths.scores(arm, window), Score)}
        for arm in arms
    }
    skips: list[Skip] = []
    judged: dict[str, list[Program]] = defaultdict(list)
    known = {problem.problem_id for problem in problems}
    for index, program in enumerate(programs):
        if program.problem_id not in known:
            raise DataError(
                f"{paths.programs(window)}, row {index}: problem_id {program.problem_id!r} is not in "
                f"{paths.problems(window)}; run the generate stage again, or remove the row"
            )
        outcome = outcomes.get((program.problem_id, program.program_hash))
        if outcome is None:
            skips.append(Skip(f"outcomes_{window}", candidate_name(program), "not judged"))
        elif not outcome.verdict.is_label:
            skips.append(Skip(f"outcomes_{window}", candidate_name(program), f"verdict {outcome.verdict.value}"))
        else:
            judged[program.problem_id].append(program)
    result = []
    for problem in problems:
        kept = tuple(sorted(judged[problem.problem_id], key=lambda program: program.sample_index))
        if not kept:
            skips.append(Skip(f"problems_{window}", problem.problem_id, "no judged candidate"))
            continue
        logits = {arm: tuple(_logits(scores[arm], program, arm, skips) for program in kept) for arm in arms}
        own = [outcomes[program.problem_id, program.program_hash] for program in kept]
        passed = np.array([float(outcome.passed) for outcome in own])
        least = len(problem.public_tests)
        public = np.array([outcome.passed or outcome.tests_passed >= least for outcome in own]) if least else None
        result.append(Candidates(problem, kept, passed, logits, public, _log_probabilities(kept)))
    if not result:
        raise DataError(f"{paths.outcomes(window)}: no candidate has a verdict; nothing to evaluate")
    return result, skips


def _log_probabilities(programs: Sequence[Program]) -> np.ndarray | None:
    """The policy's mean log-probability of each program; None if it gave none."""
    values = [json.loads(program.sampling).get(MEAN_LOG_PROBABILITY) for program in programs]
    known = [float(value) if isinstance(value, (int, float)) else float("nan") for value in values]
    return None if np.isnan(known).all() else np.array(known)


def _logits(scores: Mapping[tuple[str, str], Score], program: Program, arm: str, skips: list[Skip]) -> np.ndarray:
    row = scores.get((program.problem_id, program.program_hash))
    logits = np.array(row.step_logits if row else (), dtype=np.float64)
    if not logits.size or np.isnan(logits).any():
        reason = "no score" if row is None else "no step" if not logits.size else "a step's logit is NaN"
        skips.append(Skip(f"score_{arm}", candidate_name(program), f"{reason}: ranks last"))
        return np.zeros(0)
    return logits
