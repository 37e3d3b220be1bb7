"""The programs of one window, as the label stage goes through them."""

from __future__ import annotations

from collections.abc import Iterator

from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Problem, Program
from dreamprm_jax.storage import iterate_records


def problems_by_id(paths: Paths, window: str) -> dict[str, Problem]:
    """The problems of a window."""
    return {problem.problem_id: problem for problem in iterate_records(paths.problems(window), Problem)}


def unique_programs(paths: Paths, window: str) -> Iterator[Program]:
    """A window's programs, read a few at a time. Of equal texts, the first."""
    seen: set[str] = set()
    for program in iterate_records(paths.programs(window), Program):
        if program.program_hash not in seen:
            seen.add(program.program_hash)
            yield program
