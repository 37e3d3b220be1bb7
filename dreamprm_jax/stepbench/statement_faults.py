"""Faults of whole statements: a statement is removed, moved, or changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from dreamprm_jax.stepbench.faults import Edit, Scope
from dreamprm_jax.stepbench.source_map import SourceMap


def statement_removed(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """An update, a call or a store into a container is removed. (Removing ``name = ...`` would raise a NameError.)"""
    if isinstance(node, ast.Expr):
        removable = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") != "print"
    elif isinstance(node, ast.Assign):
        removable = all(isinstance(target, (ast.Subscript, ast.Attribute)) for target in node.targets)
    else:
        removable = isinstance(node, ast.AugAssign)
    if removable:
        yield from _remove(source, node, "statement_removed")  # type: ignore[arg-type]


def missing_base_case(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """A guard is removed: an ``if`` of at most two statements that ends with a return, raise or continue."""
    if (
        isinstance(node, ast.If)
        and not node.orelse
        and isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue))
    ):
        is_elif = source.text.startswith("elif", source.start(node))
        if not is_elif and len(node.body) <= 2 and len(source.block(node)) > 1:
            yield from _remove(source, node, "missing_base_case")


def _remove(source: SourceMap, statement: ast.stmt, name: str) -> Iterator[Edit]:
    if len(source.block(statement)) == 1:
        yield Edit(name, source.start(statement), source.end(statement), "pass")
    elif (lines := source.whole_lines(statement)) is not None:
        yield Edit(name, *lines, "")


def accumulation_lost(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``total += x`` becomes ``total = x``."""
    if isinstance(node, ast.AugAssign):
        token = source.between(source.end(node.target), source.start(node.value))
        if token is not None:
            yield Edit("accumulation_lost", token.start, token.end, "=")


def loop_control(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """``continue`` becomes ``break``. In a ``for``, ``break`` becomes ``continue``; a ``while`` might never end."""
    if isinstance(node, ast.Continue):
        yield Edit("loop_control", source.start(node), source.end(node), "break")
    elif isinstance(node, ast.Break):
        loop: ast.AST = node
        while not isinstance(loop, (ast.For, ast.While, ast.AsyncFor)):
            loop = source.parents[loop]
        if isinstance(loop, ast.For):
            yield Edit("loop_control", source.start(node), source.end(node), "continue")


def early_return(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """The ``return`` after a loop is moved to the end of the loop body, so that it returns after one iteration."""
    if not isinstance(node, ast.Return):
        return
    block = source.block(node)
    place = block.index(node)
    before = block[place - 1] if place else None
    lines = source.whole_lines(node)
    if isinstance(before, (ast.For, ast.While)) and not before.orelse and lines is not None:
        first = before.body[0]
        indentation = source.text[source.line_start(source.start(first)) : source.start(first)]
        if not indentation.strip() and node.lineno == node.end_lineno:
            yield Edit("early_return", lines[0], source.start(node), indentation)


def wrong_return(source: SourceMap, node: ast.AST, scope: Scope) -> Iterator[Edit]:
    """The return value is replaced by its negation, an operand, a branch, the first argument or the swapped pair."""
    if not isinstance(node, ast.Return) or node.value is None:
        return
    value = node.value
    texts: list[str] = []
    if isinstance(value, ast.Constant) and isinstance(value.value, bool):
        texts = [str(not value.value)]
    elif isinstance(value, ast.BinOp):
        texts = [source.of(value.left), source.of(value.right)]
    elif isinstance(value, ast.UnaryOp):
        texts = [source.of(value.operand)]
    elif isinstance(value, ast.IfExp):
        texts = [source.of(value.body), source.of(value.orelse)]
    elif isinstance(value, ast.Call) and value.args and not isinstance(value.args[0], (ast.Starred, ast.GeneratorExp)):
        texts = [source.of(value.args[0])]
    elif isinstance(value, ast.Tuple) and len(value.elts) == 2:
        first, second = map(source.of, value.elts)
        inner = f"{second}, {first}"
        texts = [f"({inner})" if source.of(value).startswith("(") else inner]
    for text in texts:
        if "\n" not in text and text != source.of(value):
            yield Edit("wrong_return", source.start(value), source.end(value), text)
