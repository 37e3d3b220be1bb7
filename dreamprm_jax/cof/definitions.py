"""Finds the functions (optionally whole classes) of a program, and where each one ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter

from dreamprm_jax.cof.source_text import identifier_at, indentation, line_end, mask

_DEFINITION_LINE = re.compile(
    r"^(?P<indentation>[ \t\f]*)(?:async[ \t]+(?=def))?(?P<word>def|class)(?=[ \t\\])", re.MULTILINE
)
_CLASS_LINE = re.compile(r"class(?=[ \t\\])")


class Definition(NamedTuple):
    """A function or class of the program. Offsets refer to the program's text."""

    start: int  # start of its ``def`` or ``class`` (or ``async``, or first decorator)
    cut: int  # after the last line that belongs to it
    name: str  # qualified name


class _Found(NamedTuple):
    """A definition as found in the tree or the text."""

    start: int
    end: int  # end of its last token
    column: int  # column of its ``def`` line
    name: str


def definitions(code: str, text: str, root: tree_sitter.Node | None, whole_classes: bool = False) -> list[Definition]:
    """The top-level functions and the methods of top-level classes, in order. They include their nested functions.

    Args:
      code: Any text, parsable or not.
      text: The ASCII replacement of ``code`` (``source_text.parser_text``).
      root: The syntax tree of ``text``, or None if there is no tree.
      whole_classes: Whether to return a top-level class as one definition, without its methods.
    """
    broken = root is None or root.has_error
    if root is None or broken:
        text = mask(root, text)
        found = list(_by_indentation(root, text, code, whole_classes))
    else:
        found = list(_by_structure(root, code, whole_classes))
    result: list[Definition] = []
    covered = 0
    for one, limit in zip(found, _limits(found, len(text)), strict=True):
        if one.start < covered:
            continue  # nested in the previous definition
        covered = _cut_after(text, one, limit, broken)
        result.append(Definition(one.start, covered, one.name))
    return result


def _limits(found: list[_Found], end: int) -> list[int]:
    """For each definition, the start of the next one with the same or a smaller indentation, or ``end``."""
    limits = [end] * len(found)
    open_ones: list[int] = []
    for index, one in enumerate(found):
        while open_ones and found[open_ones[-1]].column >= one.column:
            limits[open_ones.pop()] = one.start
        open_ones.append(index)
    return limits


# ---------------------------------------------------------------- finding functions


def _by_structure(root: tree_sitter.Node, code: str, whole_classes: bool) -> Iterator[_Found]:
    """Definitions in a tree without errors: children of the module, or of the body of a top-level class."""
    for statement in root.children:
        definition = _undecorated(statement)
        if definition.type == "function_definition" or (whole_classes and definition.type == "class_definition"):
            yield _function(statement, definition, code)
        elif definition.type == "class_definition":
            body = definition.child_by_field_name("body")
            for member in body.children if body else ():
                method = _undecorated(member)
                if method.type == "function_definition":
                    yield _function(member, method, code, _name(definition, code) + ".")


def _by_indentation(root: tree_sitter.Node | None, text: str, code: str, whole_classes: bool) -> Iterator[_Found]:
    """Definitions in a tree with errors: every ``def`` (or ``class``) that begins a line. Its nesting is unreliable.

    A definition at column 0 is a top-level function. An indented one is a method if the nearest line above with a
    smaller indentation is a class at column 0; otherwise it is not a step. The strings in ``text`` are masked.
    """
    matches = list(_DEFINITION_LINE.finditer(text))
    owners = _enclosing_classes(text, code) if any(match["indentation"] for match in matches) else {}
    for match in matches:
        column = len(match["indentation"])
        if (match["word"] == "class" and not whole_classes) or (whole_classes and column):
            continue
        owner = owners[match.start()] if column else ""
        if owner is None:
            continue
        token = root.descendant_for_byte_range(match.start("word"), match.end("word")) if root else None
        definition = token.parent if token else None
        known = definition is not None and definition.type in ("function_definition", "class_definition")
        name = identifier_at(code, match.end())  # read from the text, because the tree may lack it
        yield _Found(
            start=match.start() + column,
            end=definition.end_byte if definition and known else match.end(),
            column=column,
            name=f"{owner}.{name}" if owner else name,
        )


def _enclosing_classes(text: str, code: str) -> dict[int, str | None]:
    """Maps a line's offset to the name of the column-0 class whose body contains the line, or to None.

    That class is the nearest line above with a smaller indentation. A stack holds the open lines, each with a larger
    indentation than the one before, so that every line is visited once.
    """
    owners: dict[int, str | None] = {}
    open_lines: list[tuple[int, str | None]] = []  # indentation, name of the class at column 0
    position = 0
    while position < len(text):
        end = line_end(text, position + 1)
        line = text[position:end]
        content = line.strip()
        if content and not content.startswith("#"):
            column = indentation(line)
            while open_lines and open_lines[-1][0] >= column:
                open_lines.pop()
            owners[position] = open_lines[-1][1] if open_lines else None
            match = _CLASS_LINE.match(line)
            open_lines.append((column, identifier_at(code, position + match.end()) if match else None))
        position = end
    return owners


def _undecorated(node: tree_sitter.Node) -> tree_sitter.Node:
    if node.type != "decorated_definition":
        return node
    return node.child_by_field_name("definition") or node


def _function(statement: tree_sitter.Node, definition: tree_sitter.Node, code: str, owner: str = "") -> _Found:
    column = definition.start_point.column
    return _Found(statement.start_byte, statement.end_byte, column, owner + _name(definition, code))


def _name(definition: tree_sitter.Node, code: str) -> str:
    node = definition.child_by_field_name("name")
    return code[node.start_byte : node.end_byte] if node else ""


# ---------------------------------------------------------------- where a function ends


def _cut_after(text: str, found: _Found, limit: int, broken: bool) -> int:
    """The offset after the line that ends the function and after the following lines with a deeper indentation.

    These lines are trailing comments or, in broken code, the rest of a body that the parser lost. ``limit`` is the
    start of the next function that is not inside this one. A broken tree may extend past it, or include the comments
    and decorators that precede that function. The cut is then placed before them.
    """
    if found.end > limit:
        return _before_leading_lines(text, text.rfind("\n", 0, limit) + 1, found)
    cut = position = line_end(text, found.end)
    if broken:
        cut = position = _before_leading_lines(text, cut, found)
    while position < limit:
        end = line_end(text, position + 1)
        line = text[position:end]
        if line.strip():
            if indentation(line) <= found.column:
                break
            cut = end
        position = end
    return cut


def _before_leading_lines(text: str, position: int, found: _Found) -> int:
    """Moves a cut up past blank lines, and past comments and decorators with at most the function's indentation."""
    first_line_end = line_end(text, found.start + 1)
    while position > first_line_end:
        start = text.rfind("\n", 0, position - 1) + 1
        line = text[start:position]
        if line.strip() and (indentation(line) > found.column or line.strip()[0] not in "#@"):
            break
        position = start
    return position
