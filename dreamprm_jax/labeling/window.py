"""The problems and distinct programs of one window."""

from __future__ import annotations

from collections.abc import Iterator

from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Problem, Program
from dreamprm_jax.storage import iterate_records


def problems_by_id(paths: Paths, window: str) -> dict[str, Problem]:
    """The problems of a window, by id."""
    return {problem.problem_id: problem for problem in iterate_records(paths.problems(window), Problem)}


def unique_programs(paths: Paths, window: str) -> Iterator[Program]:
    """Yields a window's distinct programs with bounded memory."""
    seen: set[str] = set()
    for program in iterate_records(paths.programs(window), Program):
        if program.program_hash not in seen:
            seen.add(program.program_hash)
            yield program
