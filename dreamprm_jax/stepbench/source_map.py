"""Maps a program's syntax tree to its text: the offsets of nodes, operators and whole lines.

Faults are edits of the text at these offsets, so that every byte outside the edit is unchanged.
"""

from __future__ import annotations

import ast
import bisect
import io
import itertools
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Parts of the tree that are not code of the function body, or whose positions are wrong in Python before 3.12.
_SKIPPED_NODES = (ast.JoinedStr, ast.arguments)
_SKIPPED_FIELDS = ("annotation", "returns", "decorator_list", "type_params")


@dataclass(frozen=True)
class Token:
    """A name, keyword or operator, with its offsets in the text."""

    text: str
    start: int
    end: int


class SourceMap:
    """Positions of a program's parts, as string offsets."""

    def __init__(self, text: str) -> None:
        """Parses the text.

        Raises:
          ValueError: if Python cannot parse it, or if it contains a carriage return or form feed.
        """
        if "\r" in text or "\f" in text:
            raise ValueError("carriage returns or form feeds")
        self.text = text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about invalid escapes in the program's strings
            try:
                self.tree = ast.parse(text)
            except (SyntaxError, RecursionError) as error:
                raise ValueError(f"not Python ({error})") from error
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except tokenize.TokenError as error:
            raise ValueError(str(error)) from error
        self._tokens = [
            Token(token.string, self._at(token.start), self._at(token.end))
            for token in tokens
            if token.type in (tokenize.NAME, tokenize.OP)
        ]
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def functions(self) -> Iterator[Function]:
        """The functions that are steps: at top level, or methods of a top-level class."""
        for node in self.tree.body:
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            yield from (member for member in members if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)))

    def nodes(self, function: Function) -> Iterator[ast.AST]:
        """The nodes of the function's body in the order of the text, without the docstring."""
        body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
        stack: list[ast.AST] = list(reversed(body))
        while stack:
            node = stack.pop()
            yield node
            children: list[ast.AST] = []
            for name, value in ast.iter_fields(node):
                if name not in _SKIPPED_FIELDS:
                    values = value if isinstance(value, list) else [value]
                    children += [v for v in values if isinstance(v, ast.AST) and not isinstance(v, _SKIPPED_NODES)]
            stack += reversed(children)

    def start(self, node: ast.AST) -> int:
        """The offset at which a node begins, without enclosing parentheses."""
        return self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        """The offset at which a node ends, without enclosing parentheses."""
        return self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        """A node's text."""
        return self.text[self.start(node) : self.end(node)]

    def _at(self, position: tuple[int, int]) -> int:
        return self._starts[position[0] - 1] + position[1]

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        if not text.isascii():  # the tree counts bytes
            column = len(text.encode()[:column].decode())
        return self._starts[line - 1] + column

    def between(self, left: int, right: int) -> Token | None:
        """The operator between two offsets, ignoring parentheses and comments; None if there is none."""
        first = bisect.bisect_left(self._tokens, left, key=lambda token: token.start)
        following = itertools.takewhile(lambda token: token.end <= right, itertools.islice(self._tokens, first, None))
        found = [token for token in following if token.text not in "()"]
        if not found:
            return None
        return Token(" ".join(token.text for token in found), found[0].start, found[-1].end)

    def line_start(self, offset: int) -> int:
        """The offset at which the line of ``offset`` begins."""
        return self.text.rfind("\n", 0, offset) + 1

    def whole_lines(self, statement: ast.stmt) -> tuple[int, int] | None:
        """(start, end) of the lines of this statement; None if they contain anything else except a comment."""
        start, end = self.line_start(self.start(statement)), self.text.find("\n", self.end(statement))
        end = len(self.text) if end < 0 else end + 1
        before, after = self.text[start : self.start(statement)], self.text[self.end(statement) : end]
        return (start, end) if not before.strip() and after.strip()[:1] in ("", "#") else None

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The list of statements that contains this statement."""
        parent = self.parents[statement]
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, [])
            if isinstance(block, list) and statement in block:
                return block
        return [statement]
