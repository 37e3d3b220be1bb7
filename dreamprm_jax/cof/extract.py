"""Extracts the program from a model's answer.

The rules, in order:
1. Reasoning is not part of the answer (``cof.reasoning``). If it never ends, only the text before it is searched.
2. Of the fenced blocks (``cof.fences``), the one that most resembles a program wins (``cof.reads_as_program``): a
   self-contained program beats a usage example, sample output or an excerpt of another block. Ties are decided in this
   order: a closed block beats one truncated by the end of the answer; a block tagged as Python beats an untagged one,
   which beats one with another tag; a later block beats an earlier one. Text outside of fences competes if it is a
   program as a whole.
3. Without a fence, the program is the content of a pair of tags or of a JSON object, the answer itself if it looks like
   code, or the part of the answer that looks like code.

If the rule of LiveCodeBench's evaluator (the text between the last two lines with a fence) finds a program, these rules
find one too. ``benchmarks/extraction.py`` compares them.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dreamprm_jax.cof.fences import Block, Source, blocks
from dreamprm_jax.cof.reads_as_program import Likeness, likeness, parse_python, without_prose
from dreamprm_jax.cof.reasoning import without_reasoning

_RANKS: dict[Source, int] = {"python_fence": 3, "plain_fence": 2, "other_fence": 1, "bare": 0}
_CODE_LINE = re.compile(
    r"^[ \t]*(?:import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:(]|@\w)", re.MULTILINE
)
_COMMENTS = re.compile(r"(?:[ \t]*#[^\n]*\n|\s)*")
_CONTAINER = re.compile(
    r"(?:[<\[](?P<close>/)?|\\(?:begin|(?P<end>end))\{)(?P<name>\|?[A-Za-z][\w:|.-]*)"
    r"(?:\}(?:\[[^\]\n]*\])?|[^<>\[\]{}\n]*[>\]])"
)
_MARKDOWN = 3  # maximum nesting depth of blocks


@dataclass(frozen=True)
class Extraction:
    """A program and where in the answer it was found."""

    code: str  # "" if the answer contains no program
    source: Source
    truncated: bool  # the fence, or the reasoning, was still open at the end of the answer


@dataclass(frozen=True)
class _Graded:
    block: Block
    likeness: Likeness


def extract_code(answer: str) -> str:
    """The program in an answer; "" if there is none."""
    return extract(answer).code


def extract(answer: str) -> Extraction:
    """The program in an answer, and how it was found (see the rules of this module)."""
    programs: list[Block] | None = None

    def is_code(offset: int) -> bool:
        nonlocal programs
        if programs is None:
            programs = [block for block in blocks(answer) if parse_python(block.code) is not None]
        before = bisect.bisect_right(programs, offset, key=lambda block: block.start)
        return before > 0 and offset < programs[before - 1].end

    text, truncated = without_reasoning(answer, is_code)
    candidates = list(_candidates(text, _MARKDOWN))
    best = _best([one for one in candidates if one.block.source != "bare" or one.likeness >= Likeness.DEFINITIONS])
    if best is None or best.likeness < Likeness.DEFINITIONS:
        best = _best([*([best] if best else []), *_rescued(text, candidates)])
    if best is not None:
        return Extraction(best.block.code, best.block.source, best.block.truncated)
    return Extraction("", "none", truncated)


def _candidates(text: str, depth: int) -> Iterator[_Graded]:
    for block in blocks(text):
        grade = likeness(block.code)
        if depth and block.source != "bare" and "```" in block.code and grade < Likeness.DEFINITIONS:
            inner = [one for one in _candidates(block.code, depth - 1) if one.block.source != "bare"]
            if any(one.likeness > grade for one in inner):
                yield from inner
                continue
        if block.truncated and grade <= Likeness.BROKEN:
            code = without_prose(block.code)
            block = dataclasses.replace(block, code=code, truncated=code == block.code)
            grade = likeness(block.code)
        yield _Graded(block, grade)


def _best(candidates: Sequence[_Graded]) -> _Graded | None:
    if not candidates:
        return None

    def rank(index: int) -> tuple[int, bool, int, int]:
        one = candidates[index]
        return (one.likeness, not one.block.truncated, _RANKS[one.block.source], index)

    best = candidates[max(range(len(candidates)), key=rank)]
    lines = _lines(best.block.code)
    for one in candidates:  # an excerpt only explains a program, so the program wins
        if one.likeness >= best.likeness and not one.block.truncated and lines < _lines(one.block.code):
            best, lines = one, _lines(one.block.code)
    return best


def _lines(code: str) -> set[str]:
    return {line.strip() for line in code.split("\n") if line.strip()}


# ---------------------------------------------------------------- without a block that is a program


def _rescued(text: str, candidates: Sequence[_Graded]) -> Iterator[_Graded]:
    """Programs outside of the blocks, in order of increasing likelihood."""
    fences = "```" in text
    bare = [one.block for one in candidates if one.block.source == "bare"]
    if fences:
        yield from _official(text)
        if bare and bare[0].start == 0 and _starts_as_code(bare[0].code):
            yield _Graded(bare[0], likeness(bare[0].code))  # its fence was opened in the prompt
    yield from (one for one in _in_tags(text) if one.likeness >= Likeness.SNIPPET)
    for part in (text, *(one.block.code for one in candidates)):
        yield from (one for one in _in_json(part) if one.likeness >= Likeness.SNIPPET)
    if fences:
        return
    whole = bare[0].code if bare else ""
    if _starts_as_code(whole) or (parse_python(whole) is not None and likeness(whole) > Likeness.NONE):
        yield _bare(whole)
    elif (line := _CODE_LINE.search(whole)) is not None:
        part = whole[line.start() :]
        if line[0][0] in " \t":  # an indented code block in Markdown
            part = re.split(r"^(?=[^\s])", part, maxsplit=1, flags=re.MULTILINE)[0]
        if (found := _bare(textwrap.dedent(part))).likeness >= Likeness.DEFINITIONS:
            yield found


def _starts_as_code(text: str) -> bool:
    comments = _COMMENTS.match(text)
    return _CODE_LINE.match(text, comments.end() if comments else 0) is not None


def _bare(code: str) -> _Graded:
    code = without_prose(code)
    return _Graded(Block(code, "bare", False, 0, 0), likeness(code))


def _official(text: str) -> Iterator[_Graded]:
    """The result of LiveCodeBench's rule: the lines between the last two with a fence."""
    lines = text.split("\n")
    fences = [index for index, line in enumerate(lines) if "```" in line]
    if len(fences) > 1:
        code = "\n".join(lines[fences[-2] + 1 : fences[-1]]) + "\n"
        if (grade := likeness(code)) >= Likeness.DEFINITIONS:
            yield _Graded(Block(code, "bare", False, 0, 0), grade)


def _in_json(text: str) -> Iterator[_Graded]:
    """The strings in a JSON object, the format of answers from servers with structured outputs."""
    if text.lstrip().startswith("{") and text.rstrip().endswith("}"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            for item in value.values() if isinstance(value, dict) else ():
                if isinstance(item, str):
                    code = extract(item).code if "```" in item else item
                    yield _Graded(Block(code, "bare", False, 0, 0), likeness(code))


def _in_tags(text: str) -> Iterator[_Graded]:
    """The text between a tag and its closing tag, such as ``[PYTHON]`` or ``<answer>``."""
    opened: dict[str, int] = {}
    for tag in _CONTAINER.finditer(text):
        name = tag["name"]
        if not (tag["close"] or tag["end"]):
            opened[name] = tag.end()
        elif (start := opened.pop(name, None)) is not None:
            code = text[start : tag.start()].strip().removeprefix("<![CDATA[").removesuffix("]]>").strip("\n") + "\n"
            if "```" not in code and code.strip():
                yield _Graded(Block(code, "bare", False, start, tag.start()), likeness(code))
