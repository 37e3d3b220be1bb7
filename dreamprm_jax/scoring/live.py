"""A reward model as the scorer of a search: it maps programs to step logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.trained import TrainedArm
from dreamprm_jax.schema import DataError, Problem, Program
from dreamprm_jax.scoring.prm import Prm, PrmOptions, load_prm, prm_of_arm
from dreamprm_jax.scoring.scorer import Reading, Scorer


class LiveScorer:
    """Implements ``search.algorithms.ProgramScorer`` with a reward model. Each padded shape is compiled once.

    Attributes:
      counts: number of programs that were left out, by reason.
    """

    def __init__(self, prm: Prm, config: Config) -> None:
        """Batches are sized by ``config.score``. Raises DataError if the model has one score per program."""
        if prm.reader is not None and prm.reader.form.outcome:
            raise DataError(f"{prm.name}: gives one score a program; a search needs one a step")
        self._prm = prm
        self._scorer = Scorer(prm.model, prm.mesh, prm.params, config.score.row_tokens, config.score.batch_tokens)
        self.counts: Counter[str] = Counter()

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[np.ndarray]:
        """Step logits of each (problem, program); empty if the program is empty or too long for the model."""
        groups: dict[str, tuple[Problem, list[Program]]] = {}
        keys = []
        for problem, code in items:
            program = Program.make(problem.problem_id, code, 0, "search", {})
            groups.setdefault(problem.problem_id, (problem, []))[1].append(program)
            keys.append(program.program_hash)
        found: list[str] = []
        readings: list[Reading] = []
        for problem, programs in groups.values():
            for program, tokens, ends in self._prm.read(problem, programs, self.counts):
                found.append(program.program_hash)
                readings.append(Reading(tokens, ends))
        logits = dict(zip(found, self._scorer.logits(readings), strict=True))
        return [logits.get(key, np.zeros(0)) for key in keys]


def load(config: Config, paths: Paths, arm: str) -> LiveScorer:
    """The scorer of one trained arm of a run. Raises DataError if the arm has no checkpoint."""
    trained = TrainedArm(paths.arm(arm), config, "")
    return LiveScorer(prm_of_arm(trained, PrmOptions(mesh=config.train.mesh)), config)


def load_foreign(config: Config, path: Path, options: PrmOptions) -> LiveScorer:
    """The scorer of a reward model that is not an arm of the run. Raises DataError if there is no model at ``path``."""
    return LiveScorer(load_prm(path, options), config)
