"""A trained arm as the scorer of a live search: programs in, step logits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.tokenizer import load_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Problem, Program
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.training.examples import tokenize
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params


class ArmScorer:
    """``selection.search.ProgramScorer`` by one trained arm of a run; compiles each padded shape once.

    Attributes:
      counts: programs that were left out, by reason.
      checkpoint: identity of the weights.
    """

    def __init__(self, config: Config, paths: Paths, arm: str) -> None:
        """Loads the arm's parameters. Raises DataError where it has none."""
        model, mesh = model_config(config.model), make_mesh(config.train.mesh)
        step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen_params(config, model, mesh))
        self._model = config.model
        self._granularity = config.label.granularity
        self._tokenizer = load_tokenizer(paths.tokenizer())
        self._scorer = Scorer(model, mesh, params, config.score.row_tokens, config.score.batch_tokens)
        self.counts: Counter[str] = Counter()
        self.checkpoint = f"{arm}/{step}"

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[np.ndarray]:
        """Step logits of each (problem, program); empty for one that the tokenizer or the model's length leaves out."""
        groups: dict[str, tuple[Problem, list[Program]]] = {}
        keys = []
        for problem, code in items:
            program = Program.make(problem.problem_id, code, 0, "search", {})
            groups.setdefault(problem.problem_id, (problem, []))[1].append(program)
            keys.append(program.program_hash)
        found: list[str] = []
        readings: list[Reading] = []
        for problem, programs in groups.values():
            for program, tokens, ends in tokenize(
                self._tokenizer, self._model, problem, programs, self.counts, self._granularity
            ):
                found.append(program.program_hash)
                readings.append(Reading(tokens, ends))
        logits = dict(zip(found, self._scorer.logits(readings), strict=True))
        return [logits.get(key, np.zeros(0)) for key in keys]


def load(config: Config, paths: Paths, arm: str) -> ArmScorer:
    """The scorer of one trained arm of a run."""
    return ArmScorer(config, paths, arm)
