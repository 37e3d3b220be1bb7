"""Tests that are Python code, as benchmarks of functions have them (assertions, ``unittest`` cases).

A test's ``input`` is the code. It runs after the program, in the program's namespace and in a process of its own, and
passes where it raises nothing; an assertion that fails is a wrong answer, any other exception a runtime error. Unlike
other tests, the program shares its process with what is expected, as in the benchmarks' own evaluators: a program that
searches for it can find it.
"""

from __future__ import annotations

import dataclasses
import json

from dreamprm_jax.sandbox.records import JudgeTask
from dreamprm_jax.schema import TestCase

_CALL = "__dreamprm_run_test__"
# ``exec`` has each test run in a process of its own (``inside.sharing``).
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
    """The task as functional tests of a function, added to the program, that runs a test."""
    tests = tuple(TestCase(json.dumps(test.input), "true", "functional") for test in task.tests)
    return dataclasses.replace(task, code=task.code + _HARNESS, func_name=_CALL, tests=tests)
