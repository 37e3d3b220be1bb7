"""When two programs are the same program: letter by letter, or up to comments, docstrings and layout.

The rollouts of a policy at a low temperature differ mostly in words. Programs of one syntax tree run alike, so one
verdict serves them all.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from typing import Literal

from dreamprm_jax.schema import content_hash

Identity = Literal["text", "code"]

# A program that can see its own words, lines or file is like no other.
_REFLECTS = re.compile(
    r"__doc__|__file__|__traceback__|\b(?:inspect|traceback|linecache|tokenize|_getframe|exc_info|argv|help)\b|lineno\b"
)
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


@functools.lru_cache(maxsize=1024)  # a text is asked for several times in a row
def identity(code: str, how: Identity) -> str:
    """A text that is equal for equal programs.

    Args:
      code: any text.
      how: ``text``: only the same text is equal; ``code``: texts with one syntax tree are, docstrings left out. Text
        that does not parse, and programs that may read themselves, equal only their like.
    """
    if how == "text" or _REFLECTS.search(code):
        return code
    try:
        return "ast:" + content_hash(*_statements(code))  # short: many are kept
    except _NOT_PYTHON:
        return code


def prefixes_passed(code: str, prefixes: Sequence[str], how: Identity) -> int:
    """How many of the prefixes, shortest first and each the beginning of the next, a program begins with.

    Args:
      code: a program.
      prefixes: programs cut at the ends of steps.
      how: ``text``: character for character; ``code``: up to docstrings, comments and layout. A prefix that ends inside
        a class, and all that does not parse, is compared as text.
    """
    passed = 0
    while passed < len(prefixes) and code.startswith(prefixes[passed]):
        passed += 1
    if how == "text" or passed == len(prefixes):
        return passed
    try:
        found = _digests(code)
        while passed < len(prefixes):
            wanted = _digests(prefixes[passed])
            if not wanted or found[: len(wanted)] != wanted:
                break
            passed += 1
    except _NOT_PYTHON:
        pass
    return passed


@functools.lru_cache(maxsize=1024)  # the prefixes are compared with every rollout
def _digests(code: str) -> tuple[str, ...]:
    return tuple(content_hash(statement) for statement in _statements(code))


def _statements(code: str) -> list[str]:
    """The syntax tree of each top-level statement, without docstrings. Raises one of ``_NOT_PYTHON``."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return [ast.dump(statement) for statement in tree.body]
