"""Reads rows of function-level benchmarks: HumanEval, MBPP, their evalplus versions, and BigCodeBench.

If all assertions of a problem are plain (``problems.assertions``), its tests are data; otherwise they are the
benchmark's own code, which runs in the sandbox with the program (``sandbox.code_tests``). The fields are those of the
published files: human-eval's JSON lines, google-research's ``mbpp.jsonl`` and its sanitized version, evalplus's
releases and Parquet files, ``bigcode/bigcodebench``.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.problems.assertions import NotLiteral, data_tests
from dreamprm_jax.problems.json_rows import check_text, id_field, text_field, type_error
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES
from dreamprm_jax.schema import DataError, TestCase, TestedProblem

# Dates of the papers (arXiv 2107.03374, 2108.07732, 2406.15877), because the problems have none.
_DATES = {"humaneval": "2021-07-07T00:00:00", "mbpp": "2021-08-16T00:00:00", "bigcodebench": "2024-06-22T00:00:00"}
_PUBLIC_TESTS = 2  # number of public tests of a HumanEval problem whose tests are data
_BEGINS = "You should write self-contained code starting with:"  # before BigCodeBench's starter code

# evalplus's comparison: ``==``, or within a tolerance if one is given or all values are floats. Roots of find_zero are
# verified.
_PLUS_TEST = """
def _dreamprm_compare():
    import copy, json
    names = {{"__name__": "reference"}}
    exec(compile({reference!r}, "<reference>", "exec"), names)
    reference, atol = names[{name!r}], {atol!r}

    def floats(value):
        return isinstance(value, float) or (
            isinstance(value, (list, tuple)) and value and all(isinstance(item, float) for item in value))

    def close(value, wanted, atol):
        if isinstance(wanted, (list, tuple)):
            return len(value) == len(wanted) and all(close(v, w, atol) for v, w in zip(value, wanted))
        return value == wanted or abs(value - wanted) <= atol + 1e-7 * abs(wanted)

    for arguments in json.loads({inputs!r}):
        value, wanted = {name}(*copy.deepcopy(arguments)), reference(*copy.deepcopy(arguments))
        if {name!r} == "find_zero":
            assert abs(sum(factor * value**power for power, factor in enumerate(arguments[0]))) <= atol
        elif value != wanted:
            tolerance = atol or (1e-6 if floats(wanted) else 0)
            assert tolerance and type(value) is type(wanted) and close(value, wanted, tolerance)


_dreamprm_compare()
"""
# BigCodeBench's evaluator provides these names, which some programs do not import.
_NAMES = "import os, sys\nfrom os import environ\n"
_UNITTEST = """
import unittest as _unittest
try:
    _unittest.TestSuite([{case}({method!r})]).debug()
except _unittest.SkipTest:
    pass
"""


@dataclass(frozen=True)
class FunctionProblem:
    """One parsed row.

    Attributes:
      problem: The problem with all its tests.
      reference: The benchmark's reference solution.
      code_reason: Why its tests are code; "" if they are data.
    """

    problem: TestedProblem
    reference: str
    code_reason: str = ""


def is_function_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the fields of one of this module's formats."""
    return "task_id" in row and bool(row.keys() & {"complete_prompt", "base_input", "test_list", "test"})


def read_function_row(
    row: Mapping[str, Any], where: str, packages: Collection[str] | None = OFFERED_PACKAGES
) -> FunctionProblem:
    """Parses one row in any of the formats.

    Args:
      row: The row.
      where: File and row, for errors.
      packages: Packages that programs may import (``sandbox.packages``); None if no program is run.

    Raises:
      DataError: names the field, or the packages that the sandbox lacks.
    """
    where = f"{where} (task_id {id_field(row, 'task_id', where)})"
    try:
        if "complete_prompt" in row:
            return _bigcodebench(row, where, packages)
        if "base_input" in row:
            return _evalplus(row, where)
        return _mbpp(row, where) if "test_list" in row else _humaneval(row, where)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the latter two: nested too deeply
        raise DataError(f"{where}: not a Python program ({error})") from error


# ---------------------------------------------------------------- HumanEval


def _humaneval(row: Mapping[str, Any], where: str) -> FunctionProblem:
    check, name = text_field(row, "test", where), text_field(row, "entry_point", where)
    try:
        tests, reason = data_tests(_checks(ast.parse(check)), "candidate"), ""
    except NotLiteral as error:
        tests, reason = (TestCase(f"{check}\n\ncheck({name})\n", "", "code"),), str(error)
    return _documented("humaneval", row, where, tests, reason)


def _checks(module: ast.Module) -> list[ast.stmt]:
    """The statements of the check function, except those that check nothing."""
    check = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None:
        raise NotLiteral("there is no check function")
    return [statement for statement in check.body if not _checks_nothing(statement)]


def _checks_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass)):
        return True
    value = statement.test if isinstance(statement, ast.Assert) else getattr(statement, "value", None)
    return isinstance(statement, (ast.Assert, ast.Expr)) and isinstance(value, (ast.Constant, ast.Name))


def _evalplus(row: Mapping[str, Any], where: str) -> FunctionProblem:
    """Parses a row of an evalplus release, which has only inputs. The reference computes the expected outputs."""
    if id_field(row, "task_id", where).startswith("Mbpp/"):
        raise DataError(
            f"{where}: evalplus's JSON lines of MBPP+ lose tuples and sets; read its Parquet rows (evalplus/mbppplus)"
        )
    name = text_field(row, "entry_point", where)
    reference = text_field(row, "prompt", where) + text_field(row, "canonical_solution", where)
    tests = []
    for field in ("base_input", "plus_input"):
        inputs = row.get(field) or []
        if not isinstance(inputs, list) or not all(isinstance(arguments, list) for arguments in inputs):
            raise DataError(f"{where}, field {field}: not a list of lists of arguments")
        text = json.dumps(inputs)
        code = _PLUS_TEST.format(reference=reference, name=name, atol=row.get("atol") or 0, inputs=text)
        tests += [TestCase(code, "", "code")] if inputs else []
    return _documented("humaneval", row, where, tuple(tests), "the reference computes the expected outputs")


def _documented(
    platform: str, row: Mapping[str, Any], where: str, tests: tuple[TestCase, ...], reason: str, prompt: str = "prompt"
) -> FunctionProblem:
    """A problem whose field ``prompt`` is a signature with a docstring. If the tests are code, all are hidden."""
    text, name = text_field(row, prompt, where), text_field(row, "entry_point", where)
    if not name.isidentifier():
        raise DataError(f"{where}, field entry_point: {name!r} is not a function's name")
    starter, statement = opening(text, name, where)
    if row.get("instruct_prompt"):
        statement = text_field(row, "instruct_prompt", where).partition(_BEGINS)[0].strip() + "\n"
    problem = _problem(platform, row, where, statement, starter, name, tests, 0 if reason else _PUBLIC_TESTS)
    return FunctionProblem(problem, text + text_field(row, "canonical_solution", where), reason)


def opening(prompt: str, name: str, where: str) -> tuple[str, str]:
    """The prompt's code up to the end of the signature, and the signature's docstring."""
    module = ast.parse(prompt)  # the docstring is a sufficient body
    function = next((node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    if function is None:
        raise DataError(f"{where}: the prompt does not define {name}")
    lines = prompt.split("\n")
    starter = "\n".join(lines[: function.body[0].lineno - 1]).strip("\n") + "\n"
    return starter, inspect.cleandoc(ast.get_docstring(function, clean=False) or "") + "\n"


# ---------------------------------------------------------------- MBPP


def _mbpp(row: Mapping[str, Any], where: str) -> FunctionProblem:
    reference = text_field(row, "code", where).replace("\r\n", "\n")
    own = text_field(row, "test_setup_code", where) if row.get("test_setup_code") else ""
    setup = [own, *_texts(row, "test_imports", where)]
    assertions = [*_texts(row, "test_list", where), *_texts(row, "challenge_test_list", where)]
    if not assertions:
        raise DataError(f"{where}, field test_list: empty")
    name, reason = _called(assertions, reference, where), ""
    try:
        if any(setup) or row.get("test"):
            raise NotLiteral("the tests have setup code")
        tests = data_tests([statement for text in assertions for statement in ast.parse(text).body], name)
    except NotLiteral as error:
        reason = str(error)
        head = "\n".join(filter(None, setup))
        tests = tuple(TestCase(f"{head}\n{text}\n".lstrip("\n"), "", "code") for text in assertions)
        if row.get("test"):  # evalplus's further inputs and their values
            tests += (TestCase(text_field(row, "test", where), "", "code"),)
    text = text_field(row, "text" if "text" in row else "prompt", where).strip()
    statement = f"{text}\n\nYour code should pass this test:\n\n{assertions[0].strip()}\n"
    return FunctionProblem(_problem("mbpp", row, where, statement, "", name, tests, 1), reference, reason)


def _texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    values = row.get(name)
    values = [] if values is None else values
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise type_error(f"{where}, field {name}", values, "a list of strings")
    return [check_text(value, f"{where}, field {name}") for value in values]


def _called(assertions: Sequence[str], reference: str, where: str) -> str:
    """The function that the assertions call, among those that the reference defines."""
    defined = {node.name for node in ast.parse(reference).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for text in assertions:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    raise DataError(f"{where}, field test_list: calls no function that field code defines")


# ---------------------------------------------------------------- BigCodeBench


def _bigcodebench(row: Mapping[str, Any], where: str, packages: Collection[str] | None) -> FunctionProblem:
    test = text_field(row, "test", where)
    reference = text_field(row, "complete_prompt", where) + text_field(row, "canonical_solution", where)
    if packages is not None and (missing := sorted((_imported(reference) | _imported(test)) - set(packages))):
        raise DataError(
            f"{where}: needs {', '.join(missing)}; sandbox.packages (--packages) names {', '.join(packages) or 'none'}"
        )
    cases = [
        TestCase(_NAMES + test + _UNITTEST.format(case=case.name, method=method.name), "", "code")
        for case in ast.parse(test).body
        if isinstance(case, ast.ClassDef) and any("TestCase" in ast.unparse(base) for base in case.bases)
        for method in case.body
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test")
    ]
    if not cases:
        raise DataError(f"{where}, field test: has no test method of a unittest.TestCase")
    return _documented("bigcodebench", row, where, tuple(cases), "unittest", "complete_prompt")


def _imported(code: str) -> set[str]:
    """The packages outside the standard library that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


def _problem(
    platform: str,
    row: Mapping[str, Any],
    where: str,
    statement: str,
    starter: str,
    name: str,
    tests: tuple[TestCase, ...],
    public: int,
) -> TestedProblem:
    return TestedProblem(
        problem_id=id_field(row, "task_id", where),
        title="",
        statement=statement,
        platform=platform,
        contest_id=platform,
        contest_date=_DATES[platform],
        difficulty="medium" if platform == "bigcodebench" else "easy",
        starter_code=starter,
        func_name=name,
        public_tests=tests[:public],
        private_tests=tests[public:],
    )
