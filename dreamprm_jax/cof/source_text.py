"""A program's text as the splitter reads it: an ASCII stand-in of the same length, its parse, its masked forms."""

from __future__ import annotations

import re

import tree_sitter
import tree_sitter_python

_PYTHON = tree_sitter.Language(tree_sitter_python.language())
_IDENTIFIER = re.compile(r"[ \t]*(\w*)")
RECOVERY_CHARACTERS = 1 << 17
_TELLING = re.compile(r"[\"']|\b(?:def|class)\b")
_READ_BYTES = 1 << 16
_TOKEN = re.compile(
    r"(?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}"
    r"|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\\[^\r\n])"
    r"|\#[^\n]*|(?:\\\r?\n[ \t\f]*)+(?=\\\r?\n)",
    re.DOTALL,
)


def parser_text(code: str) -> str:
    """An ASCII stand-in of the same length, so that the parser's byte offsets are string offsets.

    A character outside ASCII becomes a letter (identifiers stay identifiers, strings stay strings), which also takes
    care of lone surrogates; NUL, which would end the parse, likewise. A carriage return alone ends a line, as it does
    for Python. A byte order mark becomes a form feed, which leaves the indentation at zero.
    """
    head = "\f" + code[1:] if code.startswith("\ufeff") else code
    ascii_text = head.encode("ascii", "replace").decode("ascii") if head.isascii() else _to_letters(head)
    ascii_text = ascii_text.replace("\0", "x")
    if "\r" not in ascii_text:
        return ascii_text
    return ascii_text.replace("\r\n", "\0\n").replace("\r", "\n").replace("\0", "\r")


def _to_letters(text: str) -> str:
    return "".join(character if character < "\x80" else "x" for character in text)


def parse(text: str) -> tree_sitter.Node | None:
    """The root of the tree of a stand-in text; ``has_error`` where Python could not parse it.

    None for a text of more than ``RECOVERY_CHARACTERS`` with an error: recovery takes seconds a megabyte there. An
    error that shows in the number of brackets is found without the parser, which finds it at the text's end.

    None as well for a text without a quote, a definition or a class: nobody asks its tree for anything.

    The tree has no comments. The parser is given none: after each one it would read all those that follow, to find the
    indentation of the next line, which takes the square of their number. Runs of joined lines likewise.
    """
    if _TELLING.search(text) is None:
        return None
    plain = without_comments(text)
    if len(plain) > RECOVERY_CHARACTERS and not _balanced(mask(None, plain)):
        return None
    source = plain.encode("ascii")

    def read(offset: int, point: object) -> bytes:
        return source[offset : offset + _READ_BYTES]

    def gives_up(offset: int, has_error: bool) -> bool:
        return has_error and len(source) > RECOVERY_CHARACTERS

    try:
        root = tree_sitter.Parser(_PYTHON).parse(read, progress_callback=gives_up).root_node
    except ValueError:  # it was stopped
        return None
    return None if gives_up(0, root.has_error) else root


def _balanced(masked: str) -> bool:
    return all(masked.count(left) == masked.count(right) for left, right in ("()", "[]", "{}"))


def without_comments(text: str) -> str:
    """The text with spaces in place of comments, and of a run of line joins all but the last."""
    return _TOKEN.sub(lambda token: token[0] if token["string"] else " " * len(token[0]), text)


def mask(root: tree_sitter.Node | None, text: str) -> str:
    """``text`` with every string that the parser recognized overwritten, newlines too, so that none ends a line.

    Without a tree, every string that has an end.
    """
    if "'" not in text and '"' not in text:
        return text
    if root is None:
        return _TOKEN.sub(lambda token: "x" * len(token[0]) if token[0][0] in "\"'" else token[0], text)
    parts, position = [], 0
    cursor = root.walk()
    while True:
        node = cursor.node
        masked = node is not None and node.type == "string"
        if node is not None and masked and node.start_byte >= position:
            parts += [text[position : node.start_byte], "x" * (node.end_byte - node.start_byte)]
            position = node.end_byte
        if not masked and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return "".join([*parts, text[position:]])


def line_end(text: str, offset: int) -> int:
    """The offset after the newline of the line that holds the character before ``offset``."""
    newline = text.find("\n", max(offset - 1, 0))
    return len(text) if newline < 0 else newline + 1


def indentation(line: str) -> int:
    """How many white characters the line begins with."""
    return len(line) - len(line.lstrip(" \t\f\r\n"))


def identifier_at(code: str, offset: int) -> str:
    """The identifier after ``offset`` and spaces; "" where there is none."""
    match = _IDENTIFIER.match(code, offset)
    return match[1] if match else ""
