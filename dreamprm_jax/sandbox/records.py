"""What the judge takes and gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dreamprm_jax import schema
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


@dataclass(frozen=True)
class JudgeTask:
    """One program and the tests to judge it by.

    Attributes:
      key: comes back in the result; any text.
      code: the program.
      tests: in judging order; the first failure ends the judging.
      func_name: the function to call, for functional tests.
      checker: decides instead of the comparison where several answers are right. It runs in the judge, on hostile text.
      checker_name: identifies the checker in the cache; results of an unnamed checker are not cached.
    """

    key: str
    code: str
    tests: tuple[schema.TestCase, ...]
    func_name: str | None = None
    checker: Checker | None = None
    checker_name: str = ""


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
