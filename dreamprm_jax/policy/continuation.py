"""What a server's text means: whether it continues the prefix, and the whole program that it makes."""

from __future__ import annotations

import re

from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.cof.prompts import FENCE_CLOSE, FENCE_OPEN
from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.policy.protocol import Completion

_DEFINITION = re.compile(r"(?:async\s+def|def|class|@)\b|@")


def from_completion(text: str, prompt: str, prefix: str, finish_reason: str) -> Completion:
    """The completion in the answer to a rendered prompt, which ends in an open fence and ``prefix``.

    Some servers repeat the prompt, or the part of the answer that was given; some strip the leading spaces that a
    method needs; some wrap the prompt into a chat of their own, so that the model begins a new answer. The last is no
    continuation: the answer is kept, marked as not forced.
    """
    text = text.removeprefix(prompt).removeprefix(FENCE_OPEN + prefix) if prefix else text.removeprefix(prompt)
    if text.lstrip().startswith("```"):
        code = extract_code(text)
        return Completion(code, finish_reason, forced=not prefix)
    if prefix and text.startswith(prefix):
        text = text[len(prefix) :]
    body, closed, _ = text.partition(FENCE_CLOSE)
    if text.startswith(FENCE_CLOSE.lstrip("\n")):
        body, closed = "", FENCE_CLOSE
    code = prefix + restore_indentation(prefix, body)
    finished = closed or finish_reason == "stop"
    if code and finished and not code.endswith("\n"):
        code += "\n"  # the stop sequence took it
    return Completion(code, "stop" if closed else finish_reason, forced=True)


def from_chat(text: str, prefix: str, finish_reason: str) -> Completion:
    """The completion in a chat answer, where the prefix was shown as starter code; forced only without one."""
    return Completion(extract_code(text), finish_reason, forced=not prefix)


def restore_indentation(prefix: str, body: str) -> str:
    """Gives the first line of a continuation the indentation that some servers strip from an answer's beginning.

    Applied only where nothing else fits: the prefix ends inside a class, the continuation begins at column 0 with a
    definition, and the line below is indented as the body of a method is, not as that of a top-level function.
    """
    class_indentation = _last_indentation(prefix)
    if not class_indentation or not prefix.endswith("\n") or not _DEFINITION.match(body):
        return body
    lines = body.split("\n")
    below = next((line for line in lines[1:] if line.strip()), "")
    depth = len(below) - len(below.lstrip())
    if lines[0].startswith("@"):
        stripped = depth == len(class_indentation)
    else:
        stripped = depth > len(class_indentation) and below.startswith(class_indentation)
    return class_indentation + body if stripped else body


def _last_indentation(prefix: str) -> str:
    """The indentation of the method that a prefix ends with; "" where it ends with a top-level function."""
    step = split_steps(prefix)[-1]
    owner, _, name = step.name.rpartition(".")
    match = re.search(rf"^([ \t]*)(?:async\s+)?def\s+{re.escape(name)}\b", prefix[step.start : step.end], re.MULTILINE)
    return match[1] if owner and match else ""
