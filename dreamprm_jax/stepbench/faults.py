"""Types of faults: the edit of the text, and the information about the enclosing function that operators use."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dreamprm_jax.stepbench.source_map import Function, SourceMap

_COUNTER_WORDS = "i j k l m n x y idx index left right low high lo hi mid start end pos position"
_COUNTER_NAMES = frozenset(_COUNTER_WORDS.split())


@dataclass(frozen=True)
class Edit:
    """A fault: replaces the text from ``start`` to ``end`` by ``text``."""

    operator: str
    start: int
    end: int
    text: str

    def apply(self, code: str) -> str:
        """The program with the fault. Text outside the span is unchanged."""
        return code[: self.start] + self.text + code[self.end :]


@dataclass(frozen=True)
class Scope:
    """The variables of one function."""

    bound: dict[str, int]  # name -> line of its first binding (0 for parameters)
    counters: frozenset[str]  # names that probably hold integers, judged by their binding or name


# (source, node, scope) -> the possible edits of the operator at that node
Operator = Callable[[SourceMap, ast.AST, Scope], Iterator[Edit]]


def scope_of(source: SourceMap, function: Function) -> Scope:
    """The function's parameters and all names assigned in its body, except in comprehensions."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    bound = {one.arg: 0 for one in every if one.arg not in ("self", "cls")}
    counters = set(_COUNTER_NAMES)
    for node in source.nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not _in_comprehension(source, node):
            bound[node.id] = min(bound.get(node.id, node.lineno), node.lineno)
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and isinstance(node.iter.func, ast.Name):
            target = node.target
            if node.iter.func.id == "range" and isinstance(target, ast.Name):
                counters.add(target.id)
            elif node.iter.func.id == "enumerate" and isinstance(target, ast.Tuple):
                counters.update(name.id for name in target.elts[:1] if isinstance(name, ast.Name))
    return Scope(bound, frozenset(counters))


def _in_comprehension(source: SourceMap, node: ast.AST) -> bool:
    while not isinstance(node, ast.stmt):
        node = source.parents[node]
        if isinstance(node, ast.comprehension):
            return True
    return False
