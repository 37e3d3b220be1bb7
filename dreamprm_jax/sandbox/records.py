"""What the judge takes and gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from dreamprm_jax import schema
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError

MODES = ("faithful", "lcb")
TIERS = ("FULL", "PORTABLE", "EXTERNAL", "UNSAFE")

# checker(input, expected output, the program's output or its value as canonical JSON) -> right or wrong
Checker = Callable[[str, str, str], bool]


class SandboxUnavailable(DataError):
    """This machine does not hold the asked tier; the message says what is missing."""


@dataclass(frozen=True)
class Limits:
    """What one test may use."""

    cpu_seconds: float = 6.0
    wall_seconds: float = 12.0  # of a program that waits; one that others keep from a core has up to four times as long
    memory_bytes: int = 1 << 30  # resident, beyond the worker's own
    output_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "wall_seconds", "memory_bytes", "output_bytes"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise DataError(f"sandbox limit {name} is {value!r}; it must be a positive number")

    def of(self, problem: ProblemLimits) -> Limits:
        """These limits, with a problem's own in place of the general ones; its wall time grows with its CPU time."""
        cpu, memory = problem.cpu_seconds or self.cpu_seconds, problem.memory_bytes or self.memory_bytes
        wall = self.wall_seconds * cpu / self.cpu_seconds
        return dataclasses.replace(self, cpu_seconds=cpu, wall_seconds=wall, memory_bytes=memory)


@dataclass(frozen=True)
class ProblemLimits:
    """What a problem says of its tests' limits. 0: nothing."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class JudgeTask:
    """One program and the tests to judge it by.

    Attributes:
      key: comes back in the result; any text.
      code: the program.
      tests: in judging order; the first failure ends the judging.
      func_name: the function to call, for functional tests.
      checker: decides instead of the comparison. The package's own: it runs in the judge, on hostile text.
      checker_name: identifies the checker in the cache; results of an unnamed checker are not cached.
      comparison: how answers are compared; None: as the judge does.
      limits: the problem's own, of one test.
    """

    key: str
    code: str
    tests: tuple[schema.TestCase, ...]
    func_name: str | None = None
    checker: Checker | None = None
    checker_name: str = ""
    comparison: Comparison | None = None
    limits: ProblemLimits = ProblemLimits()

    @classmethod
    def of(cls, problem: schema.Problem, key: str, code: str, tests: tuple[schema.TestCase, ...]) -> JudgeTask:
        """A program for a problem, with what the problem says of its checker and its limits.

        Raises:
          DataError: naming the problem, if its checker cannot be read.
        """
        comparison = Comparison.parse(problem.checker, f"problem {problem.problem_id}, field checker")
        limits = ProblemLimits(problem.cpu_seconds, problem.memory_bytes)
        return cls(key, code, tests, problem.func_name, comparison=comparison, limits=limits)


@dataclass(frozen=True)
class JudgeResult:
    """The verdict on one task.

    Attributes:
      tests_passed: tests passed before the first failure.
      error: short printable text; "" when accepted. Never holds an expected output.
      cpu_seconds: of all children that ran for this task.
      mode: ``faithful`` or ``lcb``.
      tier: the tier that held.
      codes: lcb mode only: the official result list (1 passed, 0 or -2 wrong, -3 time limit, -4 error).
    """

    key: str
    verdict: schema.Verdict
    tests_passed: int
    tests_total: int
    error: str
    cpu_seconds: float
    mode: str
    tier: str
    codes: tuple[int, ...] = ()


def safe_text(text: str, length: int = 200) -> str:
    """Hostile text made fit for a log: printable, one line, short."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * length])
    return shown[: length - 3] + "..." if len(shown) > length else shown
