"""A reward model that scores programs step by step and selects the best of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from dreamprm_jax.api.judging import Test, judge
from dreamprm_jax.api.results import BestOf, ScoredProgram, ScoredStep
from dreamprm_jax.schema import DataError, Problem, Program
from dreamprm_jax.selection.aggregators import AGGREGATORS, aggregate, as_probability, sigmoid
from dreamprm_jax.selection.best_of_n import choose
from dreamprm_jax.selection.execution_rules import filter_numbers

if TYPE_CHECKING:
    from dreamprm_jax.scoring.prm import Prm, PrmOptions
    from dreamprm_jax.scoring.scorer import Scorer

Task = str | Mapping[str, Any] | Problem
_MAX_CHARACTERS = 1_000_000  # maximum size of a program, as in `dreamprm score --max-characters`


class RewardModel:
    """A process reward model, created by ``load_prm``: scores programs step by step and selects the best of several.

    Attributes:
      name: Name of the model.
      checkpoint: Identity of its weights.
      granularity: Definition of a step.
    """

    def __init__(self, prm: Prm, scorer: Scorer) -> None:
        """Wraps a loaded model; use ``load_prm`` to create one."""
        self._prm = prm
        self._scorer = scorer
        self.name = prm.name
        self.checkpoint = prm.checkpoint
        self.granularity = prm.granularity

    def __repr__(self) -> str:
        return f"RewardModel({self.name!r}, a step is a {self.granularity}, {self.checkpoint})"

    @overload
    def score(  # type: ignore[overload-overlap]
        self, problem: Task, code: str, aggregator: str | None = ...
    ) -> ScoredProgram: ...
    @overload
    def score(self, problem: Task, code: Sequence[str], aggregator: str | None = ...) -> list[ScoredProgram]: ...
    def score(
        self, problem: Task, code: str | Sequence[str], aggregator: str | None = None
    ) -> ScoredProgram | list[ScoredProgram]:
        """Scores every step of one program, or of several in one pass.

        Args:
          problem: Its statement, or a dict with ``statement`` and optionally ``title`` and ``platform`` (or
            LiveCodeBench's field names). Give all fields that the training problems had.
          code: One program, or several.
          aggregator: How step scores are reduced to the program's score: "sum_log_odds", "last", "min", "mean",
            "product", ... The default is the one in the tables of a run.

        Returns:
          One result, or one for each program.

        Raises:
          DataError: names the program that has no code or exceeds the model's context.
        """
        codes = [code] if isinstance(code, str) else list(code)
        results = []
        for index, (found, reason) in enumerate(self._scored(problem, codes, aggregator)):
            if found is None:
                raise DataError(f"program {index}: {reason}")
            results.append(found)
        return results[0] if isinstance(code, str) else results

    def best_of(
        self,
        problem: Task,
        candidates: Sequence[str],
        aggregator: str | None = None,
        tests: Sequence[Test] | None = None,
        function: str | None = None,
    ) -> BestOf:
        """Selects the candidate with the highest score; a candidate that cannot be scored ranks last.

        Args:
          problem: As in ``score``.
          candidates: Programs, at least one.
          aggregator: As in ``score``.
          tests: Public tests, as in ``judge``: candidates that pass them all rank above those that do not.
          function: As in ``judge``.

        Raises:
          DataError: without candidates.
        """
        if not candidates:
            raise DataError("candidates: at least one program is needed")
        programs = tuple(found for found, _ in self._scored(problem, list(candidates), aggregator))
        logits = [() if one is None else [step.logit for step in one.steps] for one in programs]
        numbers = aggregate(logits, aggregator or self._prm.default_aggregator)
        judgments = tuple(judge(list(candidates), tests, function)) if tests else None
        if judgments is not None:
            numbers = filter_numbers(numbers, np.array([one.passed for one in judgments]))
        index = int(choose(numbers)[0])
        chosen = programs[index]
        score = float("nan") if chosen is None else chosen.score
        return BestOf(index, candidates[index], score, programs, judgments)

    def _scored(self, problem: Task, codes: list[str], name: str | None) -> list[tuple[ScoredProgram | None, str]]:
        """(scored program or None, reason why there is none) for each program."""
        from dreamprm_jax.scoring.inputs import unusable
        from dreamprm_jax.scoring.scorer import Reading, is_finite

        aggregator = name or self._prm.default_aggregator
        if aggregator not in AGGREGATORS:
            raise DataError(f"aggregator {aggregator!r}: choose from {', '.join(AGGREGATORS)}")
        task = _problem(problem)
        reasons = [unusable(code, _MAX_CHARACTERS) for code in codes]
        programs = [
            Program.make(task.problem_id, code, index, "", {}) for index, code in enumerate(codes) if not reasons[index]
        ]
        found = self._prm.read(task, programs, Counter())
        logits = self._scorer.logits([Reading(tokens, ends) for _, tokens, ends in found])
        results: list[tuple[ScoredProgram | None, str]] = [
            (None, reason or f"longer than the model's context of {self._prm.limits.max_length} tokens")
            for reason in reasons
        ]
        for (program, _, _), values in zip(found, logits, strict=True):
            if not is_finite(values):
                results[program.sample_index] = (None, "the reward model's logit is not finite")
                continue
            steps = tuple(
                ScoredStep(step.name, program.code[step.start : step.end], float(score), float(logit))
                for step, score, logit in zip(self._prm.steps(program.code), sigmoid(values), values, strict=True)
            )
            number = float(as_probability(aggregate([values], aggregator), aggregator)[0])
            results[program.sample_index] = (ScoredProgram(steps, number, aggregator), "")
        return results


def _problem(problem: Task) -> Problem:
    from dreamprm_jax.scoring.inputs import inline_problem

    if isinstance(problem, Problem):
        return problem
    row = {"statement": problem} if isinstance(problem, str) else problem
    if (found := inline_problem(row, "problem")) is None:
        raise DataError("problem: must be the statement, or a dict with the field statement")
    return found


def load_prm(model: str | Path, options: PrmOptions | None = None) -> RewardModel:
    """Loads a process reward model onto this process's devices.

    Args:
      model: RUN/ARM of a run that was trained here, a Hugging Face folder (``dreamprm export``, or a public reward
        model), or the hub id of one.
      options: Overrides of the model's settings (``scoring.prm.PrmOptions``).

    Raises:
      DataError: if there is no such model; names the file.
    """
    from dreamprm_jax.scoring import prm as loading
    from dreamprm_jax.scoring.scorer import Scorer

    prm = loading.load_prm(Path(model), options or loading.PrmOptions())
    return RewardModel(prm, Scorer(prm.model, prm.mesh, prm.params))
