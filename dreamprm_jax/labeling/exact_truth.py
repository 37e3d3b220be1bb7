"""Exact truth of a window's steps on the procedural benchmark.

The label stage writes it, because only this stage has the hidden tests. It is read by the oracle labelings and by the
trainer's evaluations (``training/evaluate_during.py``), which do not influence training.
"""

from __future__ import annotations

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.window import problems_by_id, unique_programs
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import StepTruth, TestedProblem
from dreamprm_jax.storage import read_json, read_records, write_records


def why_no_truth(config: Config) -> str | None:
    """The reason why this run has no exact truth, or None if it has one."""
    if config.problems.source != "procedural":
        return f"{config.problems.source} problems have no exact truth of their steps"
    if config.policy.kind != "simulated":
        return f"the truth of a step is exact for the simulated policy alone, not for {config.policy.kind!r}"
    if config.label.granularity != "function":
        return f"the truth is exact for function steps alone, not for label.granularity={config.label.granularity!r}"
    return None


def load_truth(config: Config, paths: Paths, window: str) -> list[StepTruth]:
    """The truth of every step of a window's distinct programs; computed and stored if missing.

    Raises:
      DataError: if a file of the generate stage is missing, or if a program was not written by the simulated policy.
    """
    path = paths.truth(window)
    if not path.exists():
        write_records(path, StepTruth, _compute(config, paths, window))
    return read_truth(paths, window)


def read_truth(paths: Paths, window: str) -> list[StepTruth]:
    """The stored truth of a window's steps."""
    return read_records(paths.truth(window), StepTruth)


def _compute(config: Config, paths: Paths, window: str) -> list[StepTruth]:
    from dreamprm_jax.problems.procedural.compose import Composition
    from dreamprm_jax.problems.procedural.truth import step_truth

    tests = HiddenTests(paths.hidden_tests())
    return step_truth(
        [
            TestedProblem(**vars(problem), private_tests=tests.of(problem_id))
            for problem_id, problem in problems_by_id(paths, window).items()
        ],
        {row["problem_id"]: Composition.from_json(row) for row in read_json(paths.compositions())},
        unique_programs(paths, window),
        config.policy.wrong_rate_scale,
    )
