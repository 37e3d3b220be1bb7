"""Compares outputs as the official evaluator does. The outputs are hostile text.

Standard output is right if, without surrounding white space, it has as many lines as expected, and each line is equal
as text or, token by token, as decimal numbers without tolerance (``testing_util.grade_stdio`` at commit 28fef95).
Values are compared as by Python's ``==`` with the expected JSON value (``grade_call_based``), on the canonical text of
``inside.values``.
"""

from __future__ import annotations

import json
import re
import struct
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Any

from dreamprm_jax.sandbox.inside import values

_MOST_NESTED = 200  # levels of an expected value
_NUMPY = re.compile(rf'("(?:[^"\\]|\\.)*"|[^,\[\]{{}}:"{values.MARK}]*){values.MARK}([iefdo])')
_COUNT = re.compile(rf"{values.COUNT}(\d{{1,18}}){values.COUNT}")


class Signalling(ArithmeticError):
    """The comparison raises an error, as it does in Python for a signalling NaN or an array."""


def output_mismatch(output: str, expected: str) -> str | None:
    """Compares a program's standard output with the expected one.

    Returns:
      None if the output is right, otherwise the position of the difference, without content of the two texts.

    Raises:
      Signalling: if a signalling NaN is compared with a number.
    """
    if output == expected:
        return None
    output, expected = output.strip(), expected.strip()
    count, expected_count = output.count("\n") + 1, expected.count("\n") + 1
    if (
        count != expected_count
    ):  # counted first: a list of millions of short lines takes twenty times the memory of the text
        return f"{count} lines instead of {expected_count}"
    lines, expected_lines = output.split("\n"), expected.split("\n")
    for number, (line, expected_line) in enumerate(zip(lines, expected_lines, strict=True), 1):
        line, expected_line = line.strip(), expected_line.strip()
        if line != expected_line and not _same_numbers(line, expected_line):
            return f"line {number} differs"
    return None


def _same_numbers(line: str, expected: str) -> bool:
    expected_tokens = expected.split()
    tokens = line.split(maxsplit=len(expected_tokens))  # at most one more than expected
    if len(tokens) != len(expected_tokens):
        return False
    try:
        # both lines as a whole: one token that is not a number makes the line wrong
        pairs = list(zip(map(Decimal, tokens), map(Decimal, expected_tokens), strict=True))
    except (InvalidOperation, ValueError):
        return False
    try:
        return all(number == other for number, other in pairs)
    except InvalidOperation as error:
        raise Signalling("a signalling NaN") from error


def expected_value(text: str) -> Any:
    """Decodes a functional test's expected output.

    Raises:
      ValueError: if it is not JSON, or nested more deeply than it can be compared.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level, depth = [value], 0
    while level := [inner for item in level if isinstance(item, (list, dict)) for inner in _inner(item)]:
        depth += 1
        if depth > _MOST_NESTED:
            raise ValueError("nested too deeply")
    return value


def _inner(value: list[Any] | dict[str, Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def value_matches(encoded: str, expected: Any, wildcards: bool = False) -> bool:
    """Whether the canonical text of a result equals the expected value.

    Never builds an object from ``encoded``: the text is matched along the expected value.

    Args:
      encoded: Text sent by the child.
      expected: The decoded expected value.
      wildcards: Accept a nested element that claims to equal everything, as the official evaluator does; a whole
        result that does so is rejected.
    """
    right = values.canonical(expected, 1 << 62)
    if encoded == right and values.OPAQUE not in right:
        return True
    # a NaN is written as OPAQUE, which equals nothing; a text without special marks must be identical
    special = (values.OPAQUE, values.ERROR, values.MARK, values.WILDCARD if wildcards else values.MARK)
    if not any(text in encoded for text in special):
        return False
    return _follow(encoded, 0, expected, wildcards) == len(encoded)


def _follow(text: str, at: int, expected: Any, wildcards: bool) -> int:
    """The position after the text of ``expected`` at ``at``, or -1 if the text there differs."""
    if text.startswith(values.WILDCARD, at):
        return at + 1 if wildcards and at else -1
    if text.startswith(values.SIGNALLING, at) and not isinstance(expected, (int, float)):
        return -1
    if text.startswith(values.ERROR, at):
        raise Signalling("the comparison fails")
    numpy = _NUMPY.match(text, at) if values.MARK in text else None
    if numpy is not None:
        return numpy.end() if _numpy_equals(numpy[1], numpy[2], expected) else -1
    if not isinstance(expected, (list, dict)):
        token = values.canonical(expected, 1 << 62)
        return at + len(token) if text.startswith(token, at) and token != values.OPAQUE else -1
    if isinstance(expected, list):
        opening, closing = "[]"
        items = [("", item) for item in expected]
    else:
        opening, closing = "{}"
        items = [(encode_basestring_ascii(key) + ":", item) for key, item in sorted(expected.items())]
    if not text.startswith(opening, at):
        return -1
    at += 1
    counted = _COUNT.match(text, at)
    if counted is not None:
        if int(counted[1]) != len(items):
            return -1
        at = counted.end()
    for index, (key, item) in enumerate(items):
        prefix = ("," if index else "") + key
        if not text.startswith(prefix, at):
            return -1
        at = _follow(text, at + len(prefix), item, wildcards)
        if at < 0:
            return -1
    return at + 1 if text.startswith(closing, at) else -1


def _numpy_equals(token: str, kind: str, expected: Any) -> bool:
    """Whether a NumPy value of one element equals ``expected``, by NumPy's promotion (NEP 50).

    Args:
      token: Canonical text of the element.
      kind: ``i`` for an integer or bool; ``e``, ``f``, ``d`` for a float of 2, 4 or 8 bytes; ``o`` for any other.
      expected: A decoded JSON value.

    Raises:
      Signalling: if the comparison does not have exactly one element, or its number is too large.
    """
    in_list = isinstance(expected, list)
    while isinstance(expected, list):
        if len(expected) != 1:
            raise Signalling("the truth value of an array is ambiguous")
        expected = expected[0]
    if kind == "o":
        return token == values.canonical(expected, 1 << 62) != values.OPAQUE
    if not isinstance(expected, (int, float)) or token == values.OPAQUE:
        return False
    try:
        if kind == "i":
            value = int(token, 0)
            return float(value) == expected if isinstance(expected, float) else value == expected
        number = float(token)
    except (ValueError, OverflowError):
        return False
    try:
        rounded = float(expected)
    except OverflowError as error:
        raise Signalling("the number is too large to compare") from error
    if kind in "ef" and not in_list:  # a Python number is cast to the NumPy type, a number in a list is not
        try:
            rounded = struct.unpack(kind, struct.pack(kind, rounded))[0]
        except OverflowError:
            rounded = float("inf") if rounded > 0 else -float("inf")
    return number == rounded
