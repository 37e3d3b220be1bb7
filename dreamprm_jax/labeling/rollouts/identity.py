"""Equality of programs: by text, or up to comments, docstrings and layout.

At a low temperature, a policy's rollouts differ mostly in comments. Programs with equal syntax trees behave alike, so
they share one verdict.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from typing import Literal

from dreamprm_jax.schema import content_hash

Identity = Literal["text", "code"]

# A program that can read its own source, line numbers or file is compared by text.
_REFLECTS = re.compile(
    r"__doc__|__file__|__traceback__|\b(?:inspect|traceback|linecache|tokenize|_getframe|exc_info|argv|help)\b|lineno\b"
)
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


@functools.lru_cache(maxsize=1024)  # callers repeat the same text several times
def identity(code: str, how: Identity) -> str:
    """A key that is equal for equal programs.

    Args:
      code: Any text.
      how: ``text``: equal text; ``code``: equal syntax trees, ignoring docstrings. Text that does not parse, and
        programs that may read themselves, are compared as text.
    """
    if how == "text" or _REFLECTS.search(code):
        return code
    try:
        return "ast:" + content_hash(*_statements(code))  # short, because many are stored
    except _NOT_PYTHON:
        return code


def prefixes_passed(code: str, prefixes: Sequence[str], how: Identity) -> int:
    """Number of the prefixes that a program begins with.

    Args:
      code: A program.
      prefixes: Prefixes that end with a step, sorted by length; each begins with the previous one.
      how: ``text``: by text; ``code``: up to docstrings, comments and layout. A prefix that ends inside a class, and
        text that does not parse, is compared as text.
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
