"""Separates a model's reasoning from its answer, for all common ways to mark reasoning.

A mark is a tag whose name refers to thinking, in any kind of brackets (``<think>``, ``[THINK]``,
``<|begin_of_thought|>``, ``<seed:think>``), a channel other than the final one, or one of a few fixed phrases. A mark
opens reasoning only if it is at the beginning of a line or after another tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_STEMS = (
    r"think|thought|reason|reflect|reflexion|scratch|analy[sz]|monolog|cot|chain|deliberat|rational|brainstorm|plan|"
    r"draft|ponder|contemplat|inner|internal|critique|introspect"
)
_CORE = re.compile(r"think|thought|reason", re.IGNORECASE)  # needed in a closing tag without an opening tag
_ANSWERS = r"answer|solution|response|final|output|result|code|program|python|submission"
_LEFT, _RIGHT = r"(?:<\|?|\[|◁|【|⟨)", r"(?:\|?>|\]|▷|】|⟩)"
_TAG = re.compile(
    rf"(?P<left>{_LEFT})(?P<close>/|end[_ ](?:of[_ ])?)?(?:begin[_ ]of[_ ]|start[_ ](?:of[_ ])?)?"
    rf"(?P<name>(?:[\w.-]+:)?\w[\w.-]*)(?P<rest>[ \t][^<>\[\]\n]*)?(?P<right>{_RIGHT})",
    re.IGNORECASE,
)
_STEM = re.compile(rf"(?:^|[_:.-])(?:{_STEMS})|think|thought", re.IGNORECASE)
_ANSWER = re.compile(rf"(?:^|[_:.-])(?:{_ANSWERS})", re.IGNORECASE)
_CHANNEL = re.compile(r"(?:<\|start\|>[^<\n]*)?<\|channel\|?>[ \t]*(?P<name>\w+)[^<\n]*(?:<\|message\|>)?")
_CHANNEL_END = re.compile(r"<channel\|>")
_UNUSED = re.compile(r"[<\[]unused\d+[>\]](?:thought)?")
# Conversions from the name of an opening tag to that of its closing tag. If none applies, "/" is put before the name.
_ENDINGS = (
    ("^(?:begin|start)_of_", "end_of_"),
    ("^(?:begin|start)_", "end_"),
    ("_start$", "_end"),
    ("_prefix$", "_suffix"),
)
_SUMMARY = re.compile(r"\s*<summary>[^<\n]*(?:think|thought|reason)", re.IGNORECASE)
# Phrases that open reasoning at the start of an answer, with the phrases that end it.
_PHRASES = (
    (re.compile(r"\s*Thinking(?:\.\.\.|…)[ \t]*\n"), re.compile(r"^(?:\.\.\.|…)done thinking\.?", re.MULTILINE)),
    (re.compile(r"\s*Here(?: i|')s my thought process:"), re.compile(r"Here(?: i|')s my response:")),
    (re.compile(r"\s*analysis(?=[A-Z])"), re.compile(r"assistant[ \t]*final")),  # channels whose marks were removed
)
# HTML tags: names in angle brackets that may begin an answer and do not mark reasoning.
_HTML = "html body div span p br hr b i em strong pre tt ul ol li table h1 h2 h3 h4 details summary s"


@dataclass(frozen=True)
class _Mark:
    start: int
    end: int
    kind: str  # "open", "close", "answer" or "toggle"
    name: str


def without_reasoning(text: str, is_code: Callable[[int], bool]) -> tuple[str, bool]:
    """The text outside of all reasoning, and whether reasoning was still open at the end of the text.

    Args:
      text: An answer.
      is_code: Whether an offset is inside a program. Tags there belong to the program.
    """
    for opening, closing in _PHRASES:
        if opened := opening.match(text):
            closed = closing.search(text, opened.end())
            return (text[closed.end() :], False) if closed else ("", True)
    marks = [mark for mark in _marks(text) if not is_code(mark.start)]
    kept: list[str] = []
    position = index = 0
    while index < len(marks):
        mark = marks[index]
        if mark.kind == "close" and _CORE.search(mark.name):
            kept, position = [], mark.end  # the reasoning was opened in the prompt
        elif mark.kind in ("open", "toggle"):
            kept.append(text[position : mark.start])
            end = _end(marks, index)
            if end is None:
                return "\n".join(kept), True
            position, index = (marks[end].start if marks[end].kind == "answer" else marks[end].end), end
        index += 1
    visible = "\n".join([*kept, text[position:]])
    return ("", True) if not marks and _opens_unknown_tag(visible) else (visible, False)


def closing_mark(prompt: str) -> str:
    """The mark that ends the reasoning that the end of a prompt has opened; "" if it has opened none."""
    end = prompt.rstrip()
    if end.endswith("<|start|>assistant"):  # gpt-oss: reasoning and answer are separate channels
        return "<|channel|>final<|message|>"
    channel = next((m for m in _CHANNEL.finditer(end) if m.end() == len(end)), None)
    if channel:
        return "" if channel["name"] == "final" else "<|end|><|start|>assistant<|channel|>final<|message|>"
    tag = next((m for m in _TAG.finditer(end, max(0, len(end) - 80)) if m.end() == len(end)), None)
    if tag is None or tag["close"] or not _names_reasoning(tag):
        return ""
    inside = end[tag.end("left") : tag.start("right")]
    for opening, closing in _ENDINGS:
        changed = re.sub(opening, closing.upper() if inside.isupper() else closing, inside, flags=re.IGNORECASE)
        if changed != inside:
            return f"{tag['left']}{changed}{tag['right']}"
    return f"{tag['left']}/{inside}{tag['right']}"


def _names_reasoning(tag: re.Match[str]) -> bool:
    """Whether the name of a tag refers to thinking. In square brackets, only names in capitals are tags."""
    return _STEM.search(tag["name"]) is not None and (tag["left"] != "[" or tag["name"].isupper())


def _marks(text: str) -> list[_Mark]:
    marks = [_Mark(m.start(), m.end(), "toggle", "unused") for m in _UNUSED.finditer(text)]
    marks += [_Mark(m.start(), m.end(), "close", "channel") for m in _CHANNEL_END.finditer(text)]
    for channel in _CHANNEL.finditer(text):
        kind = "answer" if channel["name"] == "final" else "open"
        marks.append(_Mark(channel.start(), channel.end(), kind, "channel"))
    for tag in _TAG.finditer(text):
        name, before = tag["name"].lower(), text[max(0, tag.start() - 1) : tag.start()]
        bare = name.removesuffix("_start").removesuffix("_prefix").removesuffix("_end").removesuffix("_suffix")
        closes = tag["close"] or name.endswith(("_end", "_suffix"))
        reasoning = _names_reasoning(tag)
        if name == "details":
            reasoning = bool(
                closes or _STEM.search((tag["rest"] or "").replace('"', "_")) or _SUMMARY.match(text, tag.end())
            )
        if before == "`":
            continue  # the tag is quoted
        if closes:
            if reasoning:
                marks.append(_Mark(tag.start(), tag.end(), "close", bare))
            continue
        line = text[max(0, tag.start() - 80) : tag.start()].rpartition("\n")[2]
        if line.strip() and not line.rstrip().endswith((">", "]", "▷")):
            continue
        if _ANSWER.search(name):
            marks.append(_Mark(tag.start(), tag.end(), "answer", bare))
        elif reasoning:
            marks.append(_Mark(tag.start(), tag.end(), "open", bare))
    return sorted(marks, key=lambda mark: mark.start)


def _end(marks: list[_Mark], opened: int) -> int | None:
    """The index of the mark that ends the reasoning, or None.

    A toggle ends at the next toggle, and a channel at the next mark that closes channels or opens the final one. A tag
    ends at its own closing tag, otherwise at the last closing tag of any name, otherwise at the last answer tag.
    """
    name, later = marks[opened].name, range(opened + 1, len(marks))
    if marks[opened].kind == "toggle":
        return next((i for i in later if marks[i].kind == "toggle"), None)
    if name == "channel":
        return next((i for i in later if marks[i].name == "channel" and marks[i].kind != "open"), None)
    own = next((i for i in later if marks[i].kind == "close" and marks[i].name == name), None)
    if own is not None:
        return own
    for kind in ("close", "answer"):
        if found := [i for i in later if marks[i].kind == kind]:
            return found[-1]
    return None


def _opens_unknown_tag(text: str) -> bool:
    """Whether the text begins with an unknown tag that it never closes."""
    opened = re.match(r"\s*<(\|?)([A-Za-z][\w:.-]*)\|?>", text)
    if opened is None or opened[2].lower() in _HTML.split() or _ANSWER.search(opened[2]) or opened[1]:
        return False
    return f"</{opened[2]}>" not in text
