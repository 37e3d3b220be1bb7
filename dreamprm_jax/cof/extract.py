"""Takes the program out of a model's answer.

The rule, in order:
1. Reasoning (``<think> ... </think>``) is no part of the answer; an answer that never leaves it holds no program.
2. Fenced blocks (three or more backticks or tildes at the start of a line, up to such a line without an info string)
   are ranked: closed before cut off by the end of the answer, then tagged as Python before untagged before tagged
   otherwise; of the best rank the last one that is not blank is the program. (The official evaluator takes what lies
   between the last two lines with a fence: the same for a finished answer with one program, prose for a truncated one.)
3. Without any fence the whole answer is the program if it reads as one: it parses and does more than name things, or
   its first line begins as code does. Otherwise there is no program.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Source = Literal["python_fence", "plain_fence", "other_fence", "bare", "none"]

_OPENING = re.compile(r"^(?P<indentation>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_PYTHON_TAGS = {"python", "python3", "py", "py3", "python2", "pypy", "pypy3"}
_RANKS: dict[Source, int] = {"python_fence": 2, "plain_fence": 1, "other_fence": 0}
_CODE_START = re.compile(
    r"(?:import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:(]|@\w|#)"
)


@dataclass(frozen=True)
class Extraction:
    """A program and where in the answer it was found."""

    code: str  # "" where the answer holds no program
    source: Source
    truncated: bool  # the fence, or the reasoning, was still open at the end of the answer


def extract_code(answer: str) -> str:
    """The program in an answer, "" where there is none."""
    return extract(answer).code


def extract(answer: str) -> Extraction:
    """The program in an answer, and how it was found (see the module's rule)."""
    _, closing, tail = answer.rpartition("</think>")
    if not closing and answer.lstrip().startswith("<think>"):
        return Extraction("", "none", truncated=True)
    blocks = [block for block in _fenced_blocks(tail) if block.code.strip()]
    if blocks:
        best = max(range(len(blocks)), key=lambda i: (not blocks[i].truncated, _RANKS[blocks[i].source], i))
        return blocks[best]
    if "```" not in tail and _reads_as_code(tail):
        return Extraction(tail, "bare", truncated=False)
    return Extraction("", "none", truncated=False)


def _fenced_blocks(text: str) -> Iterator[Extraction]:
    opening: re.Match[str] | None = None
    body: list[str] = []
    for line in text.split("\n"):
        if opening is None:
            opening, body = _OPENING.match(line.rstrip("\r")), []
            continue
        before = _before_closing(line, opening["fence"])
        if before is None:
            body.append(_outdent(line, len(opening["indentation"])))
            continue
        if before:
            body.append(_outdent(before, len(opening["indentation"])))
        yield _block(opening, body, truncated=False)
        opening = None
    if opening is not None:
        yield _block(opening, body, truncated=True)


def _before_closing(line: str, fence: str) -> str | None:
    """What precedes the closing fence on this line: "" as a rule, code where a model forgot the newline, or None."""
    stripped = line.rstrip()
    body = stripped.rstrip(fence[0])
    if len(stripped) - len(body) < len(fence):
        return None
    if body.strip() and fence[0] * 3 in body:
        return None  # a fence within the line, such as a docstring that quotes one
    return body if body.strip() else ""


def _outdent(line: str, width: int) -> str:
    """The line without the indentation of its fence, as in a list item."""
    indentation = len(line) - len(line.lstrip(" \t"))
    return line[min(width, indentation) :]


def _block(opening: re.Match[str], body: list[str], truncated: bool) -> Extraction:
    words = opening["info"].strip().strip("{}.").lower().split()
    tag = words[0].strip("{}.,:") if words else ""
    source: Source = "python_fence" if tag in _PYTHON_TAGS else "other_fence" if tag else "plain_fence"
    return Extraction("\n".join(body) + ("" if truncated or not body else "\n"), source, truncated)


def _reads_as_code(text: str) -> bool:
    if _CODE_START.match(text.lstrip()):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    does_something = (ast.Call, ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, does_something) for node in ast.walk(tree))
