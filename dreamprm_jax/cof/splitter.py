"""Cuts a program into its steps: the functions of Chain-of-Function (arXiv 2512.15000, section 3.1), or other units.

function (the default)
  The cut points are the ends of each top-level function and of each method of a top-level class, including the trailing
  newline and trailing indented comments. A step is therefore one function with everything after the previous function:
  decorators, comments, imports, constants, a class header. Text after the last function belongs to the last step.
  Nested functions, and functions under a top-level ``if`` or ``try``, are not separate steps.
class
  The same with whole top-level classes instead of their methods. A class without methods is also a step.
block
  Statement blocks: a compound statement with everything inside it, or a maximal run of simple statements, among the
  statements of one body (see ``cof.blocks``).
line
  Physical lines. Blank lines belong to the line below them, or to the last line if they are at the end.

The cuts of function steps are also cuts of block steps, and those are also cuts of line steps. Every program has at
least one step: a program without a cut is one step, and so is the empty program.

The spans concatenate to the program for any text, and every step except the last ends with a line break. Programs that
Python cannot parse are also split, with an error-tolerant parser (tree-sitter) and by indentation.
"""

from __future__ import annotations

from collections.abc import Sequence

from dreamprm_jax.cof.blocks import block_ends, line_ends
from dreamprm_jax.cof.definitions import Definition, definitions
from dreamprm_jax.cof.source_text import parse, parser_text
from dreamprm_jax.schema import Granularity, Step


def split_steps(code: str, granularity: Granularity = "function") -> list[Step]:
    """Splits a program into steps.

    Args:
      code: Any text, parsable or not.
      granularity: What a step is (see the module's docstring).

    Returns:
      At least one step, with ``"".join(code[s.start:s.end] for s in steps) == code``. The name of a step is that of its
      function or class, or of the one that contains it; "" if there is none.
    """
    text = parser_text(code)
    root = parse(text)
    found = definitions(code, text, root, whole_classes=granularity == "class")
    cuts = [one.cut for one in found][:-1]  # text after the last function is part of its step
    if granularity in ("function", "class"):
        names = [one.name for one in found] or [""]
    else:
        cuts = sorted({*cuts, *block_ends(code, text, root)})
        if granularity == "line":
            cuts = sorted({*cuts, *line_ends(code, text)[:-1]})
        names = _names([0, *cuts], [*cuts, len(code)], found)
    bounds = [0, *cuts, len(code)]
    return [Step(index, bounds[index], bounds[index + 1], name) for index, name in enumerate(names)]


def _names(starts: Sequence[int], ends: Sequence[int], found: Sequence[Definition]) -> list[str]:
    """The name of the function that contains each step or begins in it. ``starts`` and ``ends`` are in order."""
    names, position = [], 0
    for start, end in zip(starts, ends, strict=True):
        while position < len(found) and found[position].cut <= start:
            position += 1
        inside = position < len(found) and found[position].start < end
        names.append(found[position].name if inside else "")
    return names
