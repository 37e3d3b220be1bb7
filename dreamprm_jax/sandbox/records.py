"""The judge's inputs and outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dreamprm_jax import schema
from dreamprm_jax.config.setting import LONGEST, MOST_BYTES
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError

MODES = ("faithful", "lcb")
TIERS = ("FULL", "PORTABLE", "EXTERNAL", "UNSAFE")

_SHORTEST_SECONDS = 1.0  # minimum of a limit derived from a reference's time: short times are mostly noise

# checker(input, expected output, the program's output or its value as canonical JSON) -> right or wrong
Checker = Callable[[str, str, str], bool]


class SandboxUnavailable(DataError):
    """This machine does not support the required tier; the message says what is missing."""


@dataclass(frozen=True)
class Limits:
    """Limits of one test."""

    cpu_seconds: float = 6.0
    wall_seconds: float = 12.0  # without time in which the program lacks a core; with it, up to four times as much
    memory_bytes: int = 1 << 30  # resident, beyond the worker's own
    output_bytes: int = 16 << 20
    reference_factor: float = 0.0  # CPU time as a multiple of the reference's, if that is known; 0: not used

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "wall_seconds", "memory_bytes", "output_bytes"):
            value, most = getattr(self, name), MOST_BYTES if name.endswith("bytes") else LONGEST
            if not 0 < value <= most:
                raise DataError(f"sandbox limit {name}={value!r}: must be a positive number, at most {most:.0f}")
        if not (math.isfinite(self.reference_factor) and self.reference_factor >= 0):
            raise DataError(f"sandbox limit reference_factor={self.reference_factor!r}: must not be negative")

    def of(self, problem: ProblemLimits) -> Limits:
        """These limits, overridden by a problem's own; the wall time is scaled with the CPU time."""
        if problem == ProblemLimits():
            return self
        cpu = problem.cpu_seconds
        if not cpu and (scaled := self.reference_factor * problem.reference_seconds):
            cpu = min(max(scaled, _SHORTEST_SECONDS), LONGEST)
        cpu, memory = cpu or self.cpu_seconds, problem.memory_bytes or self.memory_bytes
        wall = min(self.wall_seconds * cpu / self.cpu_seconds, LONGEST)
        return dataclasses.replace(self, cpu_seconds=cpu, wall_seconds=wall, memory_bytes=memory)

    def check_references(self, problems: Iterable[schema.Problem], source: object) -> None:
        """Raises DataError if ``reference_factor`` is set and no problem has a reference's time."""
        if self.reference_factor and not any(problem.reference_seconds for problem in problems):
            raise DataError(
                f"reference_factor: no problem of {source} has the field reference_seconds; dreamprm convert --verify "
                "measures it for problems that have a reference program"
            )


@dataclass(frozen=True)
class ProblemLimits:
    """The limits of a problem's tests. 0: not given."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    reference_seconds: float = 0.0  # CPU time of a correct program on its slowest test


@dataclass(frozen=True)
class JudgeTask:
    """One program and the tests to judge it by.

    Attributes:
      key: Returned in the result; any text.
      code: The program.
      tests: The tests in judging order. The first failure ends the judging.
      func_name: The function to call, for functional tests.
      checker: Replaces the comparison. Only for checkers of this package: it runs in the judge, on hostile text.
      checker_name: Identifies the checker in the cache; results of an unnamed checker are not cached.
      comparison: How answers are compared; None: the judge's comparison.
      limits: The problem's own limits of one test.
      per_test: Report on each judged test (``JudgeResult.tests``).
    """

    key: str
    code: str
    tests: tuple[schema.TestCase, ...]
    func_name: str | None = None
    checker: Checker | None = None
    checker_name: str = ""
    comparison: Comparison | None = None
    limits: ProblemLimits = ProblemLimits()
    per_test: bool = False

    @classmethod
    def of(cls, problem: schema.Problem, key: str, code: str, tests: tuple[schema.TestCase, ...]) -> JudgeTask:
        """A task for a problem's program, with the problem's checker and limits.

        Raises:
          DataError: if the problem's checker cannot be read; names the problem.
        """
        comparison = Comparison.parse(problem.checker, f"problem {problem.problem_id}, field checker")
        limits = ProblemLimits(problem.cpu_seconds, problem.memory_bytes, problem.reference_seconds)
        return cls(key, code, tests, problem.func_name, comparison=comparison, limits=limits)


@dataclass(frozen=True)
class JudgedTest:
    """The result of one test. Texts are truncated, and unprintable characters in them are escaped.

    In lcb mode all tests run in one process, as in the official evaluator. Time, memory, standard error and the way it
    ended are then known only for the whole process. They are stored with the last test, but time and memory only if
    there is a single test.

    Attributes:
      verdict: Verdict on this test.
      error: As in ``JudgeResult``.
      cpu_seconds: CPU time of the process.
      wall_seconds: Wall time of the process, including time without a core.
      peak_bytes: Peak resident memory beyond the worker's own, as for ``Limits.memory_bytes``. It is 0 for a small
        program, which shares most of its memory with the worker. If the worker has a control group
        (``control_group``), it is the group's peak, which includes the kernel's memory and files in memory.
      exit_status: Exit status of a program that ended by itself; 1 for an uncaught exception.
      signal: Signal that ended the process; 9 at a limit.
      stderr: The first kilobyte.
      expected: The beginning of the expected output.
      got: The beginning of standard output, or of the returned value as JSON.
      denied: System calls that the sandbox denied, with their first three arguments ("..." for a pointer) and their
        number if above one; at most 40. None if the kernel does not reveal them.
    """

    verdict: schema.Verdict
    error: str
    expected: str
    got: str
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    peak_bytes: int | None = None
    exit_status: int | None = None
    signal: int | None = None
    stderr: str = ""
    denied: tuple[str, ...] | None = None


@dataclass(frozen=True)
class JudgeResult:
    """The verdict on one task.

    Attributes:
      tests_passed: Number of tests passed before the first failure.
      error: Short printable text; "" when accepted. Never contains an expected output.
      cpu_seconds: CPU time of all children that ran for this task.
      mode: ``faithful`` or ``lcb``.
      tier: The tier that held.
      codes: lcb mode only: the official result list (1 passed, 0 or -2 wrong, -3 time limit, -4 error).
      tests: The judged tests; only the last one may have failed. Empty unless the task requests them (``per_test``).
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
    tests: tuple[JudgedTest, ...] = ()


def escaped_text(text: str, length: int = 1000) -> str:
    """The beginning of hostile text, with all unprintable characters except line breaks and tabs escaped."""
    shown = (char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text[:length])
    return "".join(shown) + "..." * (len(text) > length)


def safe_text(text: str, length: int = 200) -> str:
    """Hostile text made safe for a log: printable, one line, short."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * length])
    return shown[: length - 3] + "..." if len(shown) > length else shown
