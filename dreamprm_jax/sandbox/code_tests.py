"""Tests that are Python code, as in function-level benchmarks (assertions, ``unittest`` cases).

A test's ``input`` is the code. It runs after the program, in the program's namespace and in a separate process, and
passes if it raises no exception. A failed assertion is a wrong answer; any other exception is a runtime error. Unlike
in other tests, the program shares its process with the expected values, as in the benchmarks' own evaluators. A program
that searches for them can find them.
"""

from __future__ import annotations

import dataclasses
import json

from dreamprm_jax.sandbox.records import JudgeTask
from dreamprm_jax.schema import TestCase

_CALL = "__dreamprm_run_test__"
# ``exec`` makes each test run in its own process (``inside.sharing``).
_HARNESS = f"""

def {_CALL}(source):
    try:
        exec(compile(source, "<test>", "exec", dont_inherit=True), globals())
    except AssertionError:
        return False
    return True
"""


def has_code_tests(task: JudgeTask) -> bool:
    """Whether all tests of the task are code."""
    return bool(task.tests) and all(test.testtype == "code" for test in task.tests)


def as_calls(task: JudgeTask) -> JudgeTask:
    """The task as functional tests of a function that is appended to the program and runs a test."""
    tests = tuple(TestCase(json.dumps(test.input), "true", "functional") for test in task.tests)
    return dataclasses.replace(task, code=task.code + _HARNESS, func_name=_CALL, tests=tests)
