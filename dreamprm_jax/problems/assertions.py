"""Converts assertions about a function's value to tests that are data, so that no program sees the expected values.

``assert name(arguments) == value`` becomes a test if arguments and value are literals that JSON can represent exactly.
Any other assertion raises ``NotLiteral``, which gives the reason; it can only be run as code (``sandbox.code_tests``).
"""

from __future__ import annotations

import ast
import contextlib
import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

from dreamprm_jax.schema import TestCase


class NotLiteral(ValueError):
    """The check cannot be expressed as test cases; the message says why."""


def data_tests(statements: Iterable[ast.stmt], name: str) -> tuple[TestCase, ...]:
    """Makes one test per statement. All statements must be assertions about the function ``name``.

    Raises:
      NotLiteral: if a statement is not such an assertion, or if there is none.
    """
    tests = []
    for statement in statements:
        if not isinstance(statement, ast.Assert):
            raise NotLiteral(f"the check has more than assertions: {type(statement).__name__}")
        tests.append(_test(statement.test, name))
    if not tests:
        raise NotLiteral("the check asserts nothing")
    return tuple(tests)


def _test(condition: ast.expr, name: str) -> TestCase:
    if not isinstance(condition, ast.Compare):
        raise NotLiteral("an assertion compares no value")
    if len(condition.ops) != 1 or not isinstance(condition.ops[0], ast.Eq):
        raise NotLiteral(f"an assertion compares with {type(condition.ops[0]).__name__}, not with ==")
    call, wanted = condition.left, condition.comparators[0]
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name):
        raise NotLiteral("an assertion is not about the function's value itself")
    if call.keywords:
        raise NotLiteral("the function is called with keywords")
    if any(isinstance(node, ast.Tuple) for part in (*call.args, wanted) for node in ast.walk(part)):
        raise NotLiteral("a tuple, which JSON cannot distinguish from a list")
    return json_test(call.args, wanted)


def json_test(arguments: Sequence[ast.expr], wanted: ast.expr) -> TestCase:
    """A functional test from literal arguments and a literal expected value. Tuples in the arguments become lists.

    Raises:
      NotLiteral: if an argument or the value is not a literal, or JSON cannot represent it.
    """
    value = _literal(wanted)
    if isinstance(value, tuple):
        value = list(value)  # the judge treats a top-level tuple as a list
    if _holds_tuple(value):
        raise NotLiteral("a tuple inside the expected value, which no JSON value equals")
    return TestCase("\n".join(_json(_literal(argument)) for argument in arguments), _json(value), "functional")


class _Fold(ast.NodeTransformer):
    """Replaces products and small powers of integers (``3 * 19``, ``0**0``) with their values."""

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
        raise NotLiteral("an argument or an expected value is not a JSON value") from error
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
