"""Statement blocks and physical lines: the step granularities below the function.

A *block* is a group of sibling statements in the body of the module, of a top-level class, or of a function that is
itself a step (a top-level function or a method):

- A compound statement (``if``, ``for``, ``while``, ``with``, ``try``, ``match``, a nested ``def`` or ``class``) is a
  block, with all its clauses and everything inside it.
- A maximal run of simple statements between compound statements is a block.
- The header of a function or class, its decorators and its docstring belong to the first block of its body.

Comments above a statement belong to its block. Comments with a deeper indentation than the statement belong to the
block before. Blocks are found from logical lines and their indentation alone, so that broken code also has blocks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import tree_sitter

from dreamprm_jax.cof.source_text import indentation, mask, without_comments

_WORD = re.compile(r"([ \t\f\r\n]*)(?:async[ \t]+)?(@|[^\W\d]\w*)?")  # indentation, first word
# A line without brackets and backslashes. It is a complete logical line unless an earlier logical line is still open.
_PLAIN = re.compile(r"([ \t\f]*+)((?:async[ \t]++)?(@|[^\W\d]\w*+)?[^\n()\[\]{}\\]*+)(?:\n|\Z)")
_BRACKET = re.compile(r"[()\[\]{}]")
_DOCSTRING = re.compile(r"[rRuUbB]{0,2}[\"']")
_COMPOUND = {"if", "for", "while", "with", "try", "def", "class"}
_CLAUSES = {"elif", "else", "except", "finally"}
# Words that cannot begin a line inside brackets. If one does, an earlier bracket was never closed.
_STATEMENT = re.compile(r"(?:async[ \t]+def|def|class|return|import|while|try|raise|assert|del|pass|break|continue)\b")


class _LogicalLine(NamedTuple):
    start: int  # start of its first physical line
    end: int  # after its last newline
    column: int  # column of its first token
    offset: int  # offset of its first token in the text
    word: str  # its first keyword or identifier, "@", or ""


@dataclass
class _Scope:
    """A body that is divided into blocks."""

    kind: Literal["module", "class", "function"]
    header: int  # column of its header, -1 for the module
    column: int | None = None  # column of its statements, known after the first one


def line_ends(code: str, text: str) -> list[int]:
    """The offset after each nonblank physical line. Blank lines belong to the line below them."""
    return [end for start, end in _physical_lines(text) if code[start:end].strip()]


def block_ends(code: str, text: str, root: tree_sitter.Node | None) -> list[int]:
    """The offset after each block except the last. The arguments are those of ``definitions``."""
    lines = _logical_lines(mask(root, without_comments(text)))
    before: _LogicalLine | None = None
    scopes = [_Scope("module", -1)]
    state: Literal["header", "simple", "compound"] = "header"
    ends = []
    for line, after in itertools.pairwise(itertools.chain(lines, (None,))):
        assert line is not None
        above, before = before, line
        scope, closed = scopes[-1], None
        if line.column <= scope.header:
            closed = scope  # the innermost body that ends here
            while line.column <= scopes[-1].header:
                scopes.pop()
            scope = scopes[-1]
        if scope.column is None:
            scope.column = line.column
        if line.column > scope.column or (state == "compound" and closed is None and line.word in _CLAUSES):
            continue  # the line is inside the statement above
        deeper_below = after is not None and after.column > line.column
        simple = line.word not in _COMPOUND and line.word != "@" and not deeper_below
        joins = closed is None and (state == "header" or (state == "simple" and simple))
        if above is not None and not joins:
            outside = closed.header if closed else line.column
            ends.append(_after_comments(text, above.end, line.start, outside))
        opens = _opens(scope, line) if line.word in ("def", "class") else None
        if opens is not None:
            scopes.append(opens)
        if opens is not None or line.word == "@" or (joins and state == "header" and _is_docstring(code, line)):
            state = "header"
        else:
            state = "simple" if simple else "compound"
    return ends


def _opens(scope: _Scope, line: _LogicalLine) -> _Scope | None:
    """The body that the line opens, or None if its statements do not form separate blocks."""
    if line.word == "def" and scope.kind != "function":
        return _Scope("function", line.column)
    if line.word == "class" and scope.kind == "module":
        return _Scope("class", line.column)
    return None


def _is_docstring(code: str, line: _LogicalLine) -> bool:
    return _DOCSTRING.match(code, line.offset) is not None


def _after_comments(text: str, position: int, limit: int, column: int) -> int:
    """Moves a block's end down past the comments with a deeper indentation than ``column``."""
    end = position
    for start, stop in _physical_lines(text[position:limit]):
        line = text[position + start : position + stop]
        if line.strip():
            if indentation(line) <= column:
                break
            end = position + stop
    return end


def _logical_lines(masked: str) -> Iterator[_LogicalLine]:
    """Yields the logical lines of Python's grammar: brackets and backslashes join lines; blank lines are skipped."""
    first: int | None = None
    depth = end = stop = 0
    while stop < len(masked):
        if first is None and (plain := _PLAIN.match(masked, stop)):
            start, stop = plain.span()
            if plain[2] and not plain[2].isspace():
                indentation, offset = plain[1], plain.start(2)
                column = len(indentation.rpartition("\f")[2]) if "\f" in indentation else offset - start
                yield _LogicalLine(start, stop, column, offset, plain[3] or "")
            continue
        start, newline = stop, masked.find("\n", stop)
        stop = len(masked) if newline < 0 else newline + 1
        line = masked[start:stop].rstrip("\n")
        content = line.strip()
        if depth and _STATEMENT.match(content):
            depth = 0
            if first is not None:
                yield _logical_line(masked, first, end)
                first = None
        if first is None:
            if not content:
                continue
            first = start
        end = stop
        if depth or "(" in content or "[" in content or "{" in content:
            for bracket in _BRACKET.findall(content):
                depth = depth + 1 if bracket in "([{" else max(depth - 1, 0)
        if depth == 0 and not (content.endswith("\\") and line.rstrip("\r").endswith("\\")):
            yield _logical_line(masked, first, end)
            first = None
    if first is not None:
        yield _logical_line(masked, first, end)


def _logical_line(masked: str, start: int, end: int) -> _LogicalLine:
    word = _WORD.match(masked, start)
    assert word is not None  # it also matches the empty string
    offset = word.end(1)
    column = offset - start
    if column and "\f" in word[1]:
        column = offset - 1 - masked.rfind("\f", start, offset)  # a form feed resets the column
    return _LogicalLine(start, end, column, offset, word[2] or "")


def _physical_lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        newline = text.find("\n", start)
        stop = len(text) if newline < 0 else newline + 1
        yield start, stop
        start = stop
