"""Interprets a server's text: decides whether it continues the prefix, and builds the resulting program."""

from __future__ import annotations

import ast
import keyword
import re
import warnings

from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.cof.prompts import FENCE_CLOSE, FENCE_OPEN
from dreamprm_jax.policy.protocol import Completion

# A quote inside a word is an apostrophe; the end of the answer may truncate a string.
_STRINGS = re.compile(r"(?:\b[fFrRbBuU]{1,2}|(?<![A-Za-z]))(?:'[^'\n]*'?|\"[^\"\n]*\"?)|#.*")
_WORDS = re.compile(r"\b([A-Za-z][A-Za-z']*)[ \t]+(?=([A-Za-z][A-Za-z']*)\b)")
_OLD_STATEMENTS = ("print", "exec", "match", "case", "type")  # words that may precede a name


def from_completion(text: str, prompt: str, prefix: str, finish_reason: str) -> Completion:
    """The completion in the answer to a rendered prompt, which ends with an open fence and ``prefix``.

    Some servers repeat the prompt or the given part of the answer. Others wrap the prompt into a chat, so that the
    model starts a new answer; such text is not appended to the prefix. Its program is extracted, and the completion is
    not forced unless the prefix is empty.
    """
    text = text.removeprefix(prompt)
    if prefix:
        text = text.removeprefix(FENCE_OPEN + prefix).removeprefix(prefix)
    if reads_as_chat(text):
        return Completion(extract_code(text), finish_reason, forced=not prefix)
    body, closed, _ = text.partition(FENCE_CLOSE)
    if text.startswith(FENCE_CLOSE.lstrip("\n")):
        body, closed = "", FENCE_CLOSE
    anew = begins_anew(body, prefix)
    code = body if anew else prefix + body
    finished = closed or finish_reason == "stop"
    if code and finished and not code.endswith("\n"):
        code += "\n"  # removed with the stop sequence
    return Completion(code, "stop" if closed else finish_reason, forced=not anew)


def from_chat(text: str, prefix: str, finish_reason: str) -> Completion:
    """The completion in a chat answer. The prefix was only shown as starter code, so only an empty one is forced."""
    return Completion(extract_code(text), finish_reason, forced=not prefix)


def begins_anew(body: str, prefix: str) -> bool:
    """Whether a text begins with the first line of the prefix, as in an answer that repeats the program."""
    first = _first_line(prefix)
    return bool(first.strip()) and _first_line(body) == first


def reads_as_chat(text: str) -> bool:
    """Whether a text opens a fence or begins with a sentence, as a chat's answer does and a continuation does not."""
    line = _first_line(text).strip()
    if re.match(r"(?:`{3,}|~{3,})[ \t]*\w", line):
        return True
    if re.match(r"`{3,}|~{3,}", line):  # closes the fence of the prompt, unless a program follows
        return not text.startswith("\n") and len(re.findall(r"^\s*(?:`{3,}|~{3,})", text, re.MULTILINE)) > 1
    return _is_sentence(line)


def _is_sentence(line: str) -> bool:
    """Whether a line is prose: it starts no statement and contains two adjacent words that Python does not allow."""
    if not line or line[0] in "#@\"'([{)]}" or _opens_statement(line):
        return False
    if re.fullmatch(r"[A-Z][a-z]+(?: [a-z]+)*[!.:,]", line) or re.match(r"[A-Z][a-z']+[!,] ", line):
        return True
    for first, second in _WORDS.findall(_STRINGS.sub(" + ", line)):
        if not (keyword.iskeyword(first) or keyword.iskeyword(second) or first in _OLD_STATEMENTS):
            return True
    return False


def _opens_statement(line: str) -> bool:
    head = "if x:\n pass\n" if line.startswith(("elif", "else")) else ""
    head = "try:\n pass\n" if line.startswith(("except", "finally")) else head
    for rest in ("", "\n pass", " pass"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(f"{head}{line}{rest}")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return True
    return False


def _first_line(text: str) -> str:
    return next((line for line in text.split("\n") if line.strip()), "").rstrip()
