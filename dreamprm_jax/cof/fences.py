"""Finds the fenced blocks of an answer, and the text between them.

A block opens at the first run of three or more backticks in a line, regardless of the text before it, if nothing or an
info string follows. Tildes must be on a line of their own. A block closes at the first such run outside of the strings
and comments of its body, which is read as Python: a fence inside a docstring closes nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.cof.reads_as_program import parse_python

Source = Literal["python_fence", "plain_fence", "other_fence", "bare", "none"]

_PYTHON_TAGS = {"python", "python3", "py", "py3", "python2", "pypy", "pypy3", "cpython", "ipython"}
_END_OF_TURN = (
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end_of_turn|END_OF_TURN_TOKEN|END_RESPONSE|return|call|end|user|"
    r"im_start)\|>|</s>|<eos>|<end_of_turn>|<turn\|>|<[|｜]end[▁_]of[▁_]sentence[|｜]>|<EOT>|\[/?INST\]"
)
_OPENING = re.compile(
    rf"^(?P<before>[^\n]*?)(?P<fence>`{{3,}}|(?<![^\s])~{{3,}})(?P<info>[^\n]*)|(?P<turn>{_END_OF_TURN})", re.MULTILINE
)
_TILDES_BEFORE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?")
_TOKEN = re.compile(
    r"(?P<comment>\#[^\n]*)"
    r"|(?P<string>\"{3}(?:\\.|[^\\])*?(?:\"{3}|\Z)|'{3}(?:\\.|[^\\])*?(?:'{3}|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    rf"|\\.|(?P<ticks>`{{3,}})|^[ \t>]*(?P<tildes>~{{3,}})[ \t\r]*$|(?P<turn>{_END_OF_TURN})",
    re.DOTALL | re.MULTILINE,
)
_LINE_FENCE = re.compile(r"^[ \t>]*(?P<ticks>`{3,}|~{3,})", re.MULTILINE)
_INFO = re.compile(r"[ \t]*[{]?[.]?(?P<tag>[\w+#.-]*)[}]?(?P<rest>.*)", re.DOTALL)
_CODE_ON_OPENING = re.compile(r"import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:(]")


@dataclass(frozen=True)
class Block:
    """A part of an answer that may be its program."""

    code: str
    source: Source
    truncated: bool  # its fence was not closed
    start: int  # start and end of the original body in the answer
    end: int


@dataclass(frozen=True)
class _Closing:
    start: int  # start of the fence
    end: int
    of_turn: bool  # whether the model's turn ended instead of the block


def blocks(text: str) -> list[Block]:
    """All nonblank blocks in order. The text between fenced blocks is included as ``bare`` blocks."""
    return [block for block in _blocks(text) if block.code.strip()]


def _blocks(text: str) -> Iterator[Block]:
    position = 0
    while (opening := _OPENING.search(text, position)) is not None:
        if opening["turn"]:
            break  # the rest is another turn that the model invented
        fence, info, body = opening["fence"], opening["info"], opening.end() + 1
        before = opening["before"]
        if (inline := info.find(fence)) >= 0 and fence[0] == "`":
            start = opening.start("info") + len(_code_after_tag(info[:inline], True)[0])
            yield _block(text, start, opening.start("info") + inline, before, info[:inline], False)
            position = body
            continue
        if (fence[0] == "~" and not _TILDES_BEFORE.fullmatch(before)) or not _is_info(info, before):
            yield Block(text[position:body], "bare", False, position, body)
            position = body
            continue
        yield Block(text[position : opening.start()], "bare", False, position, opening.start())
        tag, code = _code_after_tag(info, False)
        start = opening.start("info") + len(tag) if code else body
        closing = _closing(text, start, fence, len(before) - len(before.lstrip(" \t")))
        yield _block(text, start, closing.start if closing else len(text), before, info, closing is None)
        if closing is None or closing.of_turn:
            return
        position = closing.end
        start_of_line = text.rfind("\n", 0, closing.start) + 1
        line = text[start_of_line : _line_end(text, closing.end)]
        if start_of_line <= opening.start():
            continue  # the block ends on the line that opens it
        if (again := _OPENING.match(line)) and not again["before"].strip() and _tag(again["info"]) in _PYTHON_TAGS:
            position = start_of_line  # the closing fence is missing: this fence opens the next block
    rest = opening.start() if opening else len(text)
    yield Block(text[position:rest], "bare", False, position, rest)


def _block(text: str, start: int, end: int, before: str, info: str, truncated: bool) -> Block:
    """The block with this body, without the quote marks and indentation of its fence, and with a final line break."""
    tag = _tag(info)
    source: Source = "python_fence" if tag in _PYTHON_TAGS else "other_fence" if tag else "plain_fence"
    raw = text[start:end]
    if not truncated:
        head, newline, last = raw.rpartition("\n")
        if not last.strip():
            raw = head + newline
        elif not last.endswith("\n"):
            raw = raw.rstrip(" \t") + "\n"
    if re.fullmatch(r"[ \t>*+\d.)-]*>[ \t]*", before):
        raw = "\n".join(re.sub(r"^[ \t]*>[ ]?", "", line) for line in raw.split("\n"))
    code = _outdented(raw, len(before) - len(before.lstrip(" \t")))
    return Block(code, source, truncated, start, end)


def _outdented(body: str, width: int) -> str:
    """The body without the indentation of its fence or list item, if that makes it valid Python."""
    if not (width or body.lstrip("\r\n")[:1] in (" ", "\t")) or parse_python(body) is not None:
        return body
    lines = body.split("\n")
    outdented = "\n".join(line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
    dedented = textwrap.dedent(body)
    return next((text for text in (outdented, dedented) if parse_python(text) is not None), dedented)


def _is_info(info: str, before: str) -> bool:
    """Whether a line with a fence opens a block. A sentence about fences does not."""
    if not before.strip(" \t>*-+") or not info.strip() or _tag(info) in _PYTHON_TAGS:
        return True
    return re.fullmatch(r"[\w+#.-]+[ \t\r]*", info) is not None


def _tag(info: str) -> str:
    words = info.strip().strip("{}.").lower().split()
    return re.split(r"[{}.,:;=(\[]", words[0].strip("{}.,:"))[0] if words else ""


def _code_after_tag(info: str, inline: bool) -> tuple[str, str]:
    """Splits an info string into (tag, code after the tag on the same line)."""
    match = _INFO.match(info)
    assert match is not None  # it matches any string, because every part may be empty
    if match["tag"].lower() in _PYTHON_TAGS and (inline or _CODE_ON_OPENING.match(match["rest"].lstrip())):
        rest = match["rest"].lstrip(" \t")
        return info[: len(info) - len(rest)], rest
    if inline or _CODE_ON_OPENING.match(info.lstrip()):
        return "", info
    return info, ""


def _closing(text: str, start: int, fence: str, width: int) -> _Closing | None:
    """The end of the body that begins at ``start``, or None. ``width`` is the indentation of the opening fence."""
    open_string = False
    in_comment: _Closing | None = None
    shorter: _Closing | None = None
    for token in _TOKEN.finditer(text, start):
        if token["turn"]:
            return _Closing(token.start(), token.end(), True)
        if token["comment"]:
            in_comment = in_comment or _fence_in_comment(token, fence)
        elif token["string"]:
            closed = token["string"].endswith(token["string"][:3]) and len(token["string"]) >= 6
            open_string = token["string"][:3] in ('"""', "'''") and not closed
        else:
            name = "ticks" if token["ticks"] else "tildes"
            if token[name] and token[name][0] == fence[0]:
                found = _Closing(token.start(name), token.end(name), False)
                if len(token[name]) >= len(fence):
                    reopened = in_comment is not None and parse_python(text[start : found.start]) is None
                    return in_comment if reopened else found
                shorter = shorter or found
    if open_string:  # a docstring was never closed
        lines = (m for m in _LINE_FENCE.finditer(text, start) if m["ticks"].startswith(fence))
        outer = (m for m in lines if m.start("ticks") - m.start() <= width + 3)  # CommonMark's rule
        if (line := next(outer, None)) is not None:
            return _Closing(line.start("ticks"), line.end("ticks"), False)
    return in_comment or shorter


def _fence_in_comment(token: re.Match[str], fence: str) -> _Closing | None:
    """The fence at the end of a comment, if a model forgot the line break before it."""
    line = token["comment"].rstrip()
    body = line.rstrip(fence[0])
    if len(line) - len(body) < len(fence) or not body.strip("# \t") or fence in body:
        return None
    return _Closing(token.start() + len(body), token.start() + len(line), False)


def _line_end(text: str, position: int) -> int:
    newline = text.find("\n", position)
    return len(text) if newline < 0 else newline
