"""Writes Chain-of-Function programs function by function, and parses the choices made in a prefix.

A program consists of ``main()``, the helpers in the order in which main calls them, and the call of main. Each function
has a docstring. Parsing needs only the text, so the policy can continue any prefix, including those of other policies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dreamprm_jax.problems.procedural.compose import PRIMITIVES, Composition, phrase
from dreamprm_jax.problems.procedural.mistakes import Plan, plans

ARGUMENTS = ("values", "items", "data")
HEAD = "import sys\n\n\n"
CALL = "\n\nmain()\n"
_CALLED = re.compile(r"(\w+)\((?=sys\.stdin|values\)|answer\))")
_FUNCTION = {name: p.name for p in PRIMITIVES.values() for name in p.functions}


@dataclass(frozen=True)
class Style:
    """Choices of wording in a program, which do not change its behavior."""

    functions: tuple[int, ...]  # index of each helper's name
    docstrings: tuple[int, ...]  # index of each helper's paraphrase
    argument: int  # index into ARGUMENTS


@dataclass(frozen=True)
class Written:
    """The choices made in a prefix."""

    plan: Plan | None  # None: main() is not written yet
    forms: tuple[int, ...]  # forms of the helpers written so far, in the plan's order
    closed: bool  # whether the final call of main() is written


def write_main(composition: Composition, plan: Plan, style: Style) -> str:
    """The text of the import and of main()."""
    return _main([composition.primitives[i].functions[style.functions[i]] for i in plan.calls])


def _main(names: list[str]) -> str:
    lines = [f"values = {names[0]}(sys.stdin.read())"]
    lines += [f"values = {name}(values)" for name in names[1:-2]]
    lines += [f"answer = {names[-2]}(values)", f"print({names[-1]}(answer))"]
    strategy = ", ".join(name.replace("_", " ") for name in names)
    doc = f'    """Strategy: {strategy}."""\n'
    return HEAD + "def main():\n" + doc + "".join(f"    {line}\n" for line in lines)


def write_helper(composition: Composition, position: int, form: int, style: Style) -> str:
    """The text of one helper, with the blank lines before it."""
    primitive = composition.primitives[position]
    argument = "text" if primitive.role == "parse" else ARGUMENTS[style.argument]
    words = phrase(composition, position, style.docstrings[position])
    body = primitive.forms[form].format(a=argument, k=composition.parameters[position])
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    name = primitive.functions[style.functions[position]]
    return f'\n\ndef {name}({argument}):\n    """{words[0].upper() + words[1:]}."""\n{lines}'


def read(composition: Composition, text: str) -> Written | None:
    """Parses a prefix that ends with a step; None if no program of the policy for this problem has this prefix."""
    sections = re.split(r"(?m)^(?=def )", text)
    if len(sections) == 1:
        return Written(None, (), False) if HEAD.startswith(text) else None
    position_of = {name: i for i, name in enumerate(composition.names)}
    called = _CALLED.findall(sections[1])
    calls = [position_of.get(_FUNCTION.get(name, ""), -1) for name in called]
    plan = Plan(tuple(calls))
    if plan not in plans(composition) or "".join(sections[:2]).rstrip("\n") != _main(called).rstrip("\n"):
        return None
    helpers = sections[2:]
    if len(helpers) > len(calls):
        return None
    closed = helpers[-1].endswith("\n" + CALL) if helpers else False
    forms = []
    for position, section in zip(calls, helpers, strict=False):
        form = _form(composition, position, section.removesuffix(CALL) if closed else section)
        if form is None:
            return None
        forms.append(form)
    if closed and len(helpers) < len(calls):
        return None
    return Written(plan, tuple(forms), closed)


def _form(composition: Composition, position: int, section: str) -> int | None:
    match = re.match(r'def (\w+)\((\w+)\):\n    """[^"]*"""\n', section)
    if match is None or _FUNCTION.get(match[1]) != composition.names[position]:
        return None
    body = section[match.end() :].rstrip("\n")
    for index, form in enumerate(composition.primitives[position].forms):
        lines = form.format(a=match[2], k=composition.parameters[position]).split("\n")
        if body == "\n".join(f"    {line}" for line in lines):
            return index
    return None


def read_style(composition: Composition, text: str) -> tuple[dict[int, int], int | None]:
    """The names used in a prefix: index of the function name by position, and index of the argument name or None."""
    functions = {}
    for name in re.findall(r"\b(\w+)\(", text):
        primitive = _FUNCTION.get(name)
        if primitive in composition.names:
            functions[composition.names.index(primitive)] = PRIMITIVES[primitive].functions.index(name)
    arguments = [a for a in re.findall(r"(?m)^def \w+\((\w+)\):", text) if a in ARGUMENTS]
    return functions, ARGUMENTS.index(arguments[0]) if arguments else None
