"""Chain-of-Function prompts (arXiv 2512.15000, section 3.1), in this project's wording.

The prompt asks for a program whose functions are its reasoning steps: first the function that states the plan, then the
helpers that it calls, all at top level. Each has a docstring that explains what the function does and why. A version
identifies the exact wording. It is stored in the sampling parameters of every row, so that programs from different
prompts can be distinguished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from dreamprm_jax.schema import DataError, Problem

PROMPT_VERSION: Final = "cof-1"
FENCE_OPEN: Final = "```python\n"
FENCE_CLOSE: Final = "\n```"


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


_SYSTEM = (
    "You are an expert competitive programmer. You write correct, efficient Python 3 and structure every program as a "
    "chain of functions, each of which is one step of the solution."
)
_STDIN_FORM = """\
Write a complete Python 3 program that reads standard input and writes standard output.

Structure it as a chain of functions:
1. After the imports, define `main()` first. It reads the input, calls the helpers in order and prints the answer, so \
that reading it alone shows the whole plan.
2. Define the helper functions after it, in the order in which `main()` needs them. Each does one step.
3. Define every function at the top level: none inside another function, a class or an `if`.
4. Open every function with a docstring that explains the strategy of that step: what it computes, the idea behind it \
and its complexity.
5. Call `main()` once, on the last line of the program.
"""
_METHOD_FORM = """\
Complete the class below. Keep its name and the signature of its method; the method is called with the arguments and \
its return value is the answer. Read no input and print nothing.

{starter}Structure it as a chain of functions:
1. Define the method `{name}` first. It calls the helpers in order, so that reading it alone shows the whole plan.
2. Define the helpers after it as further methods of the same class, in the order in which `{name}` needs them. Each \
does one step.
3. Define no function inside another.
4. Open every method with a docstring that explains the strategy of that step: what it computes, the idea behind it \
and its complexity.
"""
_FUNCTION_FORM = """\
Write the Python 3 function `{name}`. It is called with the arguments and its return value is the answer. Read no \
input and print nothing.

{starter}Structure it as a chain of functions:
1. Define `{name}` first. It calls the helpers in order, so that reading it alone shows the whole plan.
2. Define the helper functions after it, in the order in which `{name}` needs them. Each does one step.
3. Define every function at the top level: none inside another function, a class or an `if`.
4. Open every function with a docstring that explains the strategy of that step: what it computes, the idea behind it \
and its complexity.
"""
_ANSWER = "Answer with the program alone, in one ```python block."
_CONTINUE = """\
The beginning of the program is already written. Copy it exactly as it is, character for character, and continue it \
to the complete program:

```python
{prefix}
```
"""


def messages(problem: Problem, version: str = PROMPT_VERSION) -> list[Message]:
    """The chat that asks for a whole program.

    Raises:
      DataError: if the version is unknown.
    """
    return _messages(problem, "", version)


def continuation_messages(problem: Problem, prefix: str, version: str = PROMPT_VERSION) -> list[Message]:
    """The chat that shows a prefix as starter code, for servers that cannot continue a message.

    The model need not keep the prefix, so such completions are marked as not forced.
    """
    return _messages(problem, _CONTINUE.format(prefix=prefix.rstrip("\n")), version)


def without_system(chat: Sequence[Message]) -> list[Message]:
    """The chat with its system message prepended to the first other message, for models without a system role."""
    system = [message["content"] for message in chat if message["role"] == "system"]
    rest = [message for message in chat if message["role"] != "system"]
    if not system or not rest:
        return list(chat)
    return [Message(role=rest[0]["role"], content="\n\n".join([*system, rest[0]["content"]])), *rest[1:]]


def assistant_prefix(prefix: str) -> str:
    """The beginning of an answer that a server continues: the open fence and the steps so far."""
    return FENCE_OPEN + prefix


def _messages(problem: Problem, continuation: str, version: str) -> list[Message]:
    if version != PROMPT_VERSION:
        raise DataError(f"prompt version {version!r} is unknown; this release has {PROMPT_VERSION!r}")
    if problem.func_name is None:
        form = _STDIN_FORM
    else:
        starter = f"```python\n{problem.starter_code.rstrip()}\n```\n\n" if problem.starter_code.strip() else ""
        template = _METHOD_FORM if "class " in problem.starter_code else _FUNCTION_FORM
        form = template.format(name=problem.func_name, starter=starter)
    parts = [f"# {problem.title}".rstrip(" #"), problem.statement.strip(), form, continuation, _ANSWER]
    content = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    return [Message(role="system", content=_SYSTEM), Message(role="user", content=content)]
