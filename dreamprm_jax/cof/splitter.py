"""Cuts a program into its steps: the functions of Chain-of-Function (arXiv 2512.15000, section 3.1).

Cut points are the ends of each top-level function and of each method of a top-level class, trailing newline and
trailing indented comments included. So a step is one function with everything since the one before: decorators,
comments, imports, constants, a class header. Text after the last function belongs to the last step. Nested functions,
and functions under a top-level ``if`` or ``try``, are no steps of their own. A program without functions is one step;
so is the empty program (one empty step): every program has at least one.

The spans concatenate to the program for any text whatever. Programs that Python cannot parse are cut too, by the
parts that an error-tolerant parser (tree-sitter) recognises and by indentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import tree_sitter
import tree_sitter_python

from dreamprm_jax.schema import Step

_PYTHON = tree_sitter.Language(tree_sitter_python.language())
_DEF_LINE = re.compile(r"^(?P<indentation>[ \t\f]*)(?:async[ \t]+)?(?P<def>def)(?=[ \t\\])", re.MULTILINE)
_CLASS_LINE = re.compile(r"class(?=[ \t\\])")


@dataclass(frozen=True)
class _Function:
    """A function found in the text; offsets are those of the text."""

    start: int  # of its ``def`` (or ``async``, or first decorator)
    end: int  # of its last token
    column: int  # of its ``def`` line
    name: str  # qualified


def split_steps(code: str) -> list[Step]:
    """Splits a program into function steps.

    Args:
      code: Any text, parsable or not.

    Returns:
      At least one step; ``"".join(code[s.start:s.end] for s in steps) == code``.
    """
    text = _parser_text(code)
    root = tree_sitter.Parser(_PYTHON).parse(text.encode("ascii")).root_node
    broken = root.has_error
    if broken:
        text = _mask_strings(root, text)
        functions = list(_functions_by_indentation(root, text, code))
    else:
        functions = list(_functions_by_structure(root, code))
    cuts: list[tuple[int, str]] = []
    covered = 0
    for index, function in enumerate(functions):
        if function.start < covered:
            continue  # nested in the one before
        later = (functions[i] for i in range(index + 1, len(functions)))
        limit = next((other.start for other in later if other.column <= function.column), len(text))
        covered = _cut_after(text, function, limit, broken)
        cuts.append((covered, function.name))
    if not cuts:
        return [Step(0, 0, len(code), "")]
    steps, start = [], 0
    for index, (end, name) in enumerate(cuts):
        steps.append(Step(index, start, end, name))
        start = end
    steps[-1] = replace(steps[-1], end=len(code))
    return steps


def _parser_text(code: str) -> str:
    """An ASCII stand-in of the same length, so that the parser's byte offsets are string offsets.

    A character outside ASCII becomes a letter (identifiers stay identifiers, strings stay strings), which also takes
    care of lone surrogates; NUL, which would end the parse, likewise. A carriage return alone ends a line, as it does
    for Python. A byte order mark becomes a form feed, which leaves the indentation at zero.
    """
    head = "\f" + code[1:] if code.startswith("\ufeff") else code
    ascii_text = head.encode("ascii", "replace").decode("ascii") if head.isascii() else _to_letters(head)
    ascii_text = ascii_text.replace("\0", "x")
    if "\r" not in ascii_text:
        return ascii_text
    return ascii_text.replace("\r\n", "\0\n").replace("\r", "\n").replace("\0", "\r")


def _to_letters(text: str) -> str:
    return "".join(character if character < "\x80" else "x" for character in text)


# ---------------------------------------------------------------- finding functions


def _functions_by_structure(root: tree_sitter.Node, code: str) -> Iterator[_Function]:
    """Functions of a tree without errors: children of the module, and of a top-level class's body."""
    for statement in root.children:
        definition = _undecorated(statement)
        if definition.type == "function_definition":
            yield _function(statement, definition, code)
        elif definition.type == "class_definition":
            body = definition.child_by_field_name("body")
            for member in body.children if body else ():
                method = _undecorated(member)
                if method.type == "function_definition":
                    yield _function(member, method, code, _name(definition, code) + ".")


def _functions_by_indentation(root: tree_sitter.Node, text: str, code: str) -> Iterator[_Function]:
    """Functions of a tree with errors, where nesting cannot be trusted: every ``def`` that begins a line.

    Column 0 is a top-level function; deeper is a method where the nearest line above of smaller indentation is a
    class at column 0, and no step otherwise. ``text`` has its strings masked.
    """
    for match in _DEF_LINE.finditer(text):
        column = len(match["indentation"])
        owner = _enclosing_class(text, code, match.start(), column) if column else ""
        if owner is None:
            continue
        token = root.descendant_for_byte_range(match.start("def"), match.end("def"))
        definition = token.parent if token else None
        known = definition is not None and definition.type == "function_definition"
        name = _identifier_at(code, match.end())  # from the text: the tree may have lost it
        yield _Function(
            start=match.start() + column,
            end=definition.end_byte if definition and known else match.end(),
            column=column,
            name=f"{owner}.{name}" if owner else name,
        )


def _mask_strings(root: tree_sitter.Node, text: str) -> str:
    """``text`` with every string that the parser recognised overwritten, newlines too: a line is a logical line."""
    parts, position = [], 0
    cursor = root.walk()
    while True:
        node = cursor.node
        is_string = node is not None and node.type == "string"
        if node is not None and is_string and node.start_byte >= position:
            parts += [text[position : node.start_byte], "x" * (node.end_byte - node.start_byte)]
            position = node.end_byte
        if not is_string and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return "".join([*parts, text[position:]])


def _enclosing_class(text: str, code: str, line: int, column: int) -> str | None:
    """The name of the column-0 class whose body the line at offset ``line`` is in; None where there is none."""
    while line > 0:
        start = text.rfind("\n", 0, line - 1) + 1
        content = text[start:line].strip()
        if content and not content.startswith("#") and _indentation(text[start:line]) < column:
            match = _CLASS_LINE.match(text, start)
            return _identifier_at(code, match.end()) if match else None
        line = start
    return None


def _undecorated(node: tree_sitter.Node) -> tree_sitter.Node:
    if node.type != "decorated_definition":
        return node
    return node.child_by_field_name("definition") or node


def _function(statement: tree_sitter.Node, definition: tree_sitter.Node, code: str, owner: str = "") -> _Function:
    column = definition.start_point.column
    return _Function(statement.start_byte, statement.end_byte, column, owner + _name(definition, code))


def _name(definition: tree_sitter.Node, code: str) -> str:
    node = definition.child_by_field_name("name")
    return code[node.start_byte : node.end_byte] if node else ""


def _identifier_at(code: str, offset: int) -> str:
    """The identifier after ``offset`` and spaces; "" where there is none."""
    while offset < len(code) and code[offset] in " \t":
        offset += 1
    end = offset
    while end < len(code) and (code[end].isalnum() or code[end] == "_"):
        end += 1
    return code[offset:end]


# ---------------------------------------------------------------- where a function ends


def _cut_after(text: str, function: _Function, limit: int, broken: bool) -> int:
    """The offset after the line that ends the function, and after the deeper lines that follow it.

    The deeper lines are its trailing comments or, in broken code, the rest of a body that the parser lost. ``limit``
    is the start of the next function that is not inside this one. A broken tree may reach past it, or take in the
    comments and decorators that lead into that function: there the cut falls before them.
    """
    if function.end > limit:
        return _before_leading_lines(text, text.rfind("\n", 0, limit) + 1, function)
    cut = position = _line_end(text, function.end)
    if broken:
        cut = position = _before_leading_lines(text, cut, function)
    while position < limit:
        line_end = _line_end(text, position + 1)
        line = text[position:line_end]
        if line.strip():
            if _indentation(line) <= function.column:
                break
            cut = line_end
        position = line_end
    return cut


def _before_leading_lines(text: str, position: int, function: _Function) -> int:
    """Moves a cut up over blank lines, and comments and decorators no deeper than the function."""
    first_line_end = _line_end(text, function.start + 1)
    while position > first_line_end:
        start = text.rfind("\n", 0, position - 1) + 1
        line = text[start:position]
        if line.strip() and (_indentation(line) > function.column or line.strip()[0] not in "#@"):
            break
        position = start
    return position


def _line_end(text: str, offset: int) -> int:
    """The offset after the newline of the line that holds the character before ``offset``."""
    newline = text.find("\n", max(offset - 1, 0))
    return len(text) if newline < 0 else newline + 1


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" \t\f\r\n"))
