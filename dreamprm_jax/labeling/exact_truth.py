"""The exact truth of a window's steps. No labelling of training reads it but the oracles, which are named so.

The trainer's figures do (``training/evaluate_during.py``), and change no step.
"""

from __future__ import annotations

from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Problem, Program, StepTruth
from dreamprm_jax.storage import read_json, read_records, write_records


def why_no_truth(config: Config) -> str | None:
    """Why this run has no exact truth, or None where it has one."""
    if config.problems.source != "procedural":
        return f"{config.problems.source} problems have no exact truth of their steps"
    if config.policy.kind != "simulated":
        return f"the truth of a step is exact for the simulated policy alone, not for {config.policy.kind!r}"
    if config.label.granularity != "function":
        return f"the truth is exact for function steps alone, not for label.granularity={config.label.granularity!r}"
    return None


def compute_truth(config: Config, paths: Paths, window: str) -> list[StepTruth]:
    """The truth of every step of a window's programs, each text once; nothing is written.

    Raises:
      DataError: if a file of the generate stage is missing, or a program is not one of the simulated policy.
    """
    from dreamprm_jax.problems.procedural.compose import Composition
    from dreamprm_jax.problems.procedural.truth import step_truth

    compositions = [Composition.from_json(row) for row in read_json(paths.compositions())]
    programs = {(row.problem_id, row.program_hash): row for row in read_records(paths.programs(window), Program)}
    return step_truth(
        read_records(paths.problems(window), Problem),
        {composition.problem_id: composition for composition in compositions},
        programs.values(),
        config.policy.wrong_rate_scale,
    )


def load_truth(config: Config, paths: Paths, window: str) -> list[StepTruth]:
    """``compute_truth``, made on first use and kept beside the results."""
    path = paths.truth(window)
    if not path.exists():
        write_records(path, StepTruth, compute_truth(config, paths, window))
    return read_records(path, StepTruth)
