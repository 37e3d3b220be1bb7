"""Judges untrusted programs by tests that are written as Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, overload

from dreamprm_jax.api.results import Judgment
from dreamprm_jax.schema import DataError, TestCase, Verdict

Test = TestCase | Mapping[str, Any] | tuple[Any, Any]


@overload
def judge(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
    code: str,
    tests: Sequence[Test],
    function: str | None = ...,
    *,
    mode: str = ...,
    tier: str = ...,
    cpu_seconds: float = ...,
    memory_bytes: int = ...,
    checker: str = ...,
    packages: Sequence[str] | None = ...,
    per_test: bool = ...,
) -> Judgment: ...
@overload
def judge(
    code: Sequence[str],
    tests: Sequence[Test],
    function: str | None = ...,
    *,
    mode: str = ...,
    tier: str = ...,
    cpu_seconds: float = ...,
    memory_bytes: int = ...,
    checker: str = ...,
    packages: Sequence[str] | None = ...,
    per_test: bool = ...,
) -> list[Judgment]: ...
def judge(
    code: str | Sequence[str],
    tests: Sequence[Test],
    function: str | None = None,
    *,
    mode: str = "faithful",
    tier: str = "PORTABLE",
    cpu_seconds: float = 6.0,
    memory_bytes: int = 1 << 30,
    checker: str = "",
    packages: Sequence[str] | None = None,
    per_test: bool = False,
) -> Judgment | list[Judgment]:
    """Runs untrusted programs in the sandbox and judges them.

    Args:
      code: One program, or several that are judged concurrently.
      tests: (input, output) pairs, or dicts with these fields. Without ``function`` both are strings: the program's
        input and its expected output. With ``function`` the input is the tuple of arguments (or the only argument) and
        the output is the expected return value; all are JSON values. A dict with ``testtype`` is a LiveCodeBench test.
      function: The function to call, also as a method of a class ``Solution``.
      mode: "faithful" (a plain process), or "lcb" (the official LiveCodeBench verdicts).
      tier: Required isolation (docs/security.md).
      cpu_seconds: Limit per test.
      memory_bytes: Limit of resident memory per test.
      checker: How answers are compared, as in the setting ``sandbox.checker``: words such as "abs=1e-6, unordered";
        FILE.py:FUNCTION; or a program that defines ``check(given, expected, answer)``, which also runs in the sandbox.
      packages: Third-party packages that the programs may import; None: numpy and sortedcontainers.
      per_test: Report on each judged test (``Judgment.tests``); slower.

    Returns:
      One judgment, or one for each program.

    Raises:
      DataError: if a test or the checker is malformed, a package is not installed, or the tier does not hold on this
        machine (SandboxUnavailable).
    """
    from dreamprm_jax.sandbox import OFFERED_PACKAGES, Comparison, Judge, JudgeTask, Limits

    codes = [code] if isinstance(code, str) else list(code)
    cases = tuple(_test_case(test, f"tests[{index}]", function) for index, test in enumerate(tests))
    tasks = [JudgeTask(str(index), one, cases, function) for index, one in enumerate(codes)]
    limits = Limits(cpu_seconds, 2 * cpu_seconds, memory_bytes)
    with Judge(
        mode,
        tier,
        limits,
        workers=1 if len(codes) < 2 else 0,
        comparison=Comparison.parse(checker, "checker"),
        per_test=per_test,
        packages=OFFERED_PACKAGES if packages is None else packages,
    ) as sandbox:
        results = [
            Judgment(
                one.verdict is Verdict.AC,
                one.verdict.value,
                one.tests_passed,
                one.tests_total,
                one.error,
                one.cpu_seconds,
                one.tests,
            )
            for one in sandbox.evaluate(tasks)
        ]
    return results[0] if isinstance(code, str) else results


def _test_case(test: Test, where: str, function: str | None) -> TestCase:
    if isinstance(test, TestCase):
        return test
    if isinstance(test, Mapping):
        if missing := {"input", "output"} - set(test):
            raise DataError(f"{where}: field {min(missing)} is missing")
        if "testtype" in test:
            return TestCase(test["input"], test["output"], test["testtype"])
        test = (test["input"], test["output"])
    if isinstance(test, str) or len(test) != 2:
        raise DataError(f"{where}: must be an (input, output) pair or a dict with these two fields, not {test!r}")
    given, expected = test
    if function is None:
        if not isinstance(given, str) or not isinstance(expected, str):
            raise DataError(f"{where}: input and output must be strings; for other values, give function=NAME")
        return TestCase(given, expected)
    arguments = given if isinstance(given, tuple) else (given,)
    try:
        return TestCase("\n".join(map(json.dumps, arguments)), json.dumps(expected), "functional")
    except TypeError as error:
        raise DataError(f"{where}: {error}; arguments and values must be JSON values") from error
