"""What the judge takes and gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dreamprm_jax import schema
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.schema import DataError

MODES = ("faithful", "lcb")
TIERS = ("FULL", "PORTABLE", "EXTERNAL", "UNSAFE")

_SHORTEST_SECONDS = 1.0  # of a limit that a reference's time gives: a short time is mostly noise

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
    reference_factor: float = 0.0  # CPU time as a multiple of a reference's, where that is known; 0: not used

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "wall_seconds", "memory_bytes", "output_bytes"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise DataError(f"sandbox limit {name} is {value!r}; it must be a positive number")
        if not (math.isfinite(self.reference_factor) and self.reference_factor >= 0):
            raise DataError(f"sandbox limit reference_factor is {self.reference_factor!r}; it must not be negative")

    def of(self, problem: ProblemLimits) -> Limits:
        """These limits, with a problem's own in place of the general ones; its wall time grows with its CPU time."""
        if problem == ProblemLimits():
            return self
        cpu = problem.cpu_seconds
        if not cpu and (scaled := self.reference_factor * problem.reference_seconds):
            cpu = max(scaled, _SHORTEST_SECONDS)
        cpu, memory = cpu or self.cpu_seconds, problem.memory_bytes or self.memory_bytes
        wall = self.wall_seconds * cpu / self.cpu_seconds
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
    """What a problem says of its tests' limits. 0: nothing."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    reference_seconds: float = 0.0  # CPU time of a right program on its slowest test


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
      per_test: report on each judged test (``JudgeResult.tests``).
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
        """A program for a problem, with what the problem says of its checker and its limits.

        Raises:
          DataError: naming the problem, if its checker cannot be read.
        """
        comparison = Comparison.parse(problem.checker, f"problem {problem.problem_id}, field checker")
        limits = ProblemLimits(problem.cpu_seconds, problem.memory_bytes, problem.reference_seconds)
        return cls(key, code, tests, problem.func_name, comparison=comparison, limits=limits)


@dataclass(frozen=True)
class JudgedTest:
    """What came of one test. Texts are cut, and what is not printable in them is escaped.

    In lcb mode all tests run in one process, as they do officially: time, memory, standard error and the way it ended
    are known of the whole, and stand with the last test, with the time and memory only if it is the one test.

    Attributes:
      verdict: of this test.
      error: as in ``JudgeResult``.
      cpu_seconds: of the process.
      wall_seconds: of the process, time without a core included.
      peak_bytes: resident memory at its highest, beyond the worker's own (as ``Limits.memory_bytes`` counts); 0 for a
        small program, which shares most of its memory with the worker. Where the worker has a control group
        (``control_group``), that group's peak, which counts the kernel's memory and files in memory too.
      exit_status: of a program that ended by itself; an uncaught exception is 1.
      signal: that ended the process: 9 at a limit.
      stderr: the first kilobyte.
      expected: the start of the expected output.
      got: the start of standard output, or of the returned value as JSON.
      denied: system calls that the sandbox denied, with their first three arguments ("..." for a pointer) and how often
        if more than once; at most 40. None if the kernel did not let them be seen.
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
      tests_passed: tests passed before the first failure.
      error: short printable text; "" when accepted. Never holds an expected output.
      cpu_seconds: of all children that ran for this task.
      mode: ``faithful`` or ``lcb``.
      tier: the tier that held.
      codes: lcb mode only: the official result list (1 passed, 0 or -2 wrong, -3 time limit, -4 error).
      tests: the judged tests, the first failure being the last; empty unless the task asks (``per_test``).
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
    """The start of hostile text, with all that is not printable escaped but line ends and tabs."""
    shown = (char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text[:length])
    return "".join(shown) + "..." * (len(text) > length)


def safe_text(text: str, length: int = 200) -> str:
    """Hostile text made fit for a log: printable, one line, short."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * length])
    return shown[: length - 3] + "..." if len(shown) > length else shown
