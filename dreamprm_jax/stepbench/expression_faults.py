"""Faults inside expressions. Each operator takes one node and yields the edits that inject its fault there."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from dreamprm_jax.stepbench.faults import Edit, Scope
from dreamprm_jax.stepbench.source_map import SourceMap

_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_NEGATED = {
    "<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "==",
    "in": "not in", "not in": "in", "is": "is not", "is not": "is",
}  # fmt: skip
_ARITHMETIC = {
    "+": "-", "-": "+", "*": "+", "/": "*", "//": "/", "%": "//", "**": "*",
    "&": "|", "|": "&", "^": "&", "<<": ">>", ">>": "<<",
}  # fmt: skip
_SIBLINGS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor",
    "upper": "lower", "lower": "upper", "startswith": "endswith", "endswith": "startswith", "lstrip": "rstrip",
    "rstrip": "lstrip", "ljust": "rjust", "rjust": "ljust", "keys": "values", "values": "keys", "popleft": "pop",
    "sin": "cos", "cos": "sin", "find": "rfind", "islower": "isupper", "isupper": "islower", "isalpha": "isalnum",
}  # fmt: skip
_SEQUENCES = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)
_CONDITIONS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)
_ATOMS = (*_CONDITIONS, ast.Constant)


def comparison_boundary(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``<`` becomes ``<=``, ``>=`` becomes ``>``."""
    yield from _compare(source, node, "comparison_boundary", _BOUNDARY)


def comparison_negated(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``==`` becomes ``!=``, ``<`` becomes ``>=``, ``in`` becomes ``not in``."""
    yield from _compare(source, node, "comparison_negated", _NEGATED)


def _compare(source: SourceMap, node: ast.AST, name: str, table: dict[str, str]) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for left, right in itertools.pairwise(operands):
            yield from _operator(source, left, right, name, table)


def _operator(source: SourceMap, left: ast.AST, right: ast.AST, name: str, table: dict[str, str]) -> Iterator[Edit]:
    token = source.between(source.end(left), source.start(right))
    if token is not None and token.text in table:
        yield Edit(name, token.start, token.end, table[token.text])


def arithmetic_operator(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``+`` becomes ``-``, ``//`` becomes ``/``. Concatenations of strings and lists are not changed."""
    if isinstance(node, ast.BinOp) and not (_is_sequence(node.left) or _is_sequence(node.right)):
        yield from _operator(source, node.left, node.right, "arithmetic_operator", _ARITHMETIC)
    elif isinstance(node, ast.AugAssign) and not _is_sequence(node.value):
        table = {f"{old}=": f"{new}=" for old, new in _ARITHMETIC.items()}
        yield from _operator(source, node.target, node.value, "arithmetic_operator", table)


def _is_sequence(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_sequence(node.left) or _is_sequence(node.right)
    return isinstance(node, _SEQUENCES) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))


def swapped_operands(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``a - b`` becomes ``b - a``; likewise quotients, remainders and powers."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)):
        return
    atoms = isinstance(node.left, _ATOMS) and isinstance(node.right, _ATOMS)
    if atoms and not _is_sequence(node.left):
        yield from _exchange(source, node.left, node.right, "swapped_operands")


def swapped_arguments(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """Two adjacent positional arguments are swapped."""
    if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
        for first, second in itertools.pairwise(node.args):
            yield from _exchange(source, first, second, "swapped_arguments")


def _exchange(source: SourceMap, first: ast.AST, second: ast.AST, name: str) -> Iterator[Edit]:
    a, b = source.of(first), source.of(second)
    if a != b:
        gap = source.text[source.end(first) : source.start(second)]
        yield Edit(name, source.start(first), source.end(second), b + gap + a)


def boolean_operator(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``and`` becomes ``or``."""
    if isinstance(node, ast.BoolOp):
        for left, right in itertools.pairwise(node.values):
            yield from _operator(source, left, right, "boolean_operator", {"and": "or", "or": "and"})


def condition_negated(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``if found`` becomes ``if not found``; an existing ``not`` is removed."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start = source.start(node)
        end = start + len("not")
        while source.text[end] in " \t":
            end += 1
        if source.text[end] == "(" or end == source.start(node.operand):
            yield Edit("condition_negated", start, end, "")
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and isinstance(node.test, _CONDITIONS):
        yield Edit("condition_negated", source.start(node.test), source.start(node.test), "not ")


def constant_off_by_one(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """An integer is incremented or decremented by one."""
    if isinstance(node, ast.Constant) and type(node.value) is int and source.of(node) == str(node.value):
        yield from _shifted(source, node, "constant_off_by_one")


def range_boundary(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """A bound of a range changes by one; ``range(n)`` may also become ``range(1, n)``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
        return
    if any(isinstance(argument, ast.Starred) for argument in node.args) or node.keywords:
        return
    for bound in node.args[:2]:
        yield from _shifted(source, bound, "range_boundary")
    if len(node.args) == 1:
        yield Edit("range_boundary", source.start(node.args[0]), source.start(node.args[0]), "1, ")


def index_off_by_one(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """An index or a bound of a slice changes by one. Keys that may not be numbers are not changed."""
    if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Tuple):
        return
    parts = [node.slice.lower, node.slice.upper] if isinstance(node.slice, ast.Slice) else [node.slice]
    for part in parts:
        if part is not None and _is_number(part, scope):
            yield from _shifted(source, part, "index_off_by_one")


def _is_number(node: ast.AST, scope: Scope) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_number(node.operand, scope)
    if isinstance(node, ast.BinOp):
        return (
            isinstance(node.op, (ast.Add, ast.Sub)) and _is_number(node.left, scope) and _is_number(node.right, scope)
        )
    if isinstance(node, ast.Name):
        return node.id in scope.counters
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("len", "int", "min", "max")
    return isinstance(node, ast.Constant) and type(node.value) is int


def _shifted(source: SourceMap, node: ast.expr, name: str) -> Iterator[Edit]:
    """Edits of an expression by plus or minus one, in the form in which a programmer would write them."""
    start, end, text = source.start(node), source.end(node), source.of(node)
    if isinstance(node, ast.Constant):
        if type(node.value) is int:
            yield from (Edit(name, start, end, str(node.value + by)) for by in (1, -1) if node.value + by >= 0)
        return
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        token = source.between(source.end(node.left), source.start(node.right))
        if isinstance(node.right, ast.Constant) and type(node.right.value) is int and token is not None:
            if node.right.value == 1:
                yield Edit(name, start, end, source.text[start : token.start].rstrip())
            else:
                yield Edit(name, source.start(node.right), source.end(node.right), str(node.right.value - 1))
            yield Edit(name, source.start(node.right), source.end(node.right), str(node.right.value + 1))
            return
    elif not isinstance(node, (*_ATOMS, ast.UnaryOp)):
        text = f"({text})"
    yield from (Edit(name, start, end, text + more) for more in (" + 1", " - 1"))


def wrong_variable(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """A variable is replaced by another variable of the function that is bound on an earlier line."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope.bound:
        parent = source.parents[node]
        if not (isinstance(parent, ast.Call) and parent.func is node):
            for other, line in sorted(scope.bound.items()):
                if other != node.id and line < node.lineno:
                    yield Edit("wrong_variable", source.start(node), source.end(node), other)


def function_swapped(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``min`` becomes ``max``, ``any`` becomes ``all``, ``floor`` becomes ``ceil``, ..."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in _SIBLINGS and name not in scope.bound:
        end = source.end(node.func)
        yield Edit("function_swapped", end - len(name), end, _SIBLINGS[name])


def sort_order(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """The sort order is reversed."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name not in ("sorted", "sort"):
        return
    given = [keyword for keyword in node.keywords if keyword.arg == "reverse"]
    if given:
        value = given[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            yield Edit("sort_order", source.start(value), source.end(value), str(not value.value))
        return
    inside = source.text[source.end(node.func) : source.end(node) - 1].rstrip()
    if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp) and not node.keywords:
        return  # a bare generator takes no second argument
    comma = "" if inside.endswith(("(", ",")) else ", "
    yield Edit("sort_order", source.end(node) - 1, source.end(node) - 1, f"{comma}reverse=True")
