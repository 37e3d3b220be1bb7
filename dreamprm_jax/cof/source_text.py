"""The forms of a program's text that the splitter uses: ASCII text of the same length, syntax tree, masked text."""

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
    """An ASCII replacement of the same length, so that the parser's byte offsets are string offsets.

    Every non-ASCII character becomes a letter, so identifiers stay identifiers and strings stay strings. This also
    handles lone surrogates. NUL becomes a letter too, because it would end the parse. A single carriage return becomes
    a line end, as in Python. A byte order mark becomes a form feed, which keeps the indentation at zero.
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
    """The root of the syntax tree of an ASCII text. It has ``has_error`` if Python could not parse the text.

    Returns None for a text with an error and more than ``RECOVERY_CHARACTERS`` characters, because error recovery takes
    seconds per megabyte. Unbalanced brackets are found without the parser, which would find them only at the end of
    such a text. Also returns None for a text without a quote, ``def`` or ``class``, whose tree is not needed.

    The tree has no comments, because the parser gets none. After each comment it would read all following ones to find
    the indentation of the next line, which takes quadratic time. The same applies to runs of joined lines.
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
    except ValueError:  # the parser was stopped
        return None
    return None if gives_up(0, root.has_error) else root


def _balanced(masked: str) -> bool:
    return all(masked.count(left) == masked.count(right) for left, right in ("()", "[]", "{}"))


def without_comments(text: str) -> str:
    """Replaces comments, and all but the last of consecutive line joins, with spaces."""
    return _TOKEN.sub(lambda token: token[0] if token["string"] else " " * len(token[0]), text)


def mask(root: tree_sitter.Node | None, text: str) -> str:
    """``text`` with every string that the parser recognized overwritten.

    Line breaks in strings are overwritten too, so that no line ends inside a string. Without a tree, all closed strings
    are overwritten.
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
    """The offset after the newline that ends the line of the character before ``offset``."""
    newline = text.find("\n", max(offset - 1, 0))
    return len(text) if newline < 0 else newline + 1


def indentation(line: str) -> int:
    """Number of white-space characters at the beginning of the line."""
    return len(line) - len(line.lstrip(" \t\f\r\n"))


def identifier_at(code: str, offset: int) -> str:
    """The identifier at ``offset``, after optional spaces; "" if there is none."""
    match = _IDENTIFIER.match(code, offset)
    return match[1] if match else ""
