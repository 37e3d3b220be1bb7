"""Whether an output is right: the official evaluator's comparison, on hostile text.

Output: surrounding white space aside, as many lines as expected, and each line equal as text or, token by token, as
decimal numbers without tolerance (``testing_util.grade_stdio`` at commit 28fef95). Values: Python's ``==`` with the
expected JSON value (``grade_call_based``), on the canonical text of ``inside.values``.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Any

from dreamprm_jax.sandbox.inside import values


class Signalling(ArithmeticError):
    """A signalling NaN was compared: the official evaluator fails with an error here."""


def output_mismatch(output: str, expected: str) -> str | None:
    """Compares a program's standard output with the expected one.

    Returns:
      None if the output is right, otherwise where it is not, in words that hold neither text.

    Raises:
      Signalling: if a signalling NaN meets a number.
    """
    if output == expected:
        return None
    output, expected = output.strip(), expected.strip()
    count, expected_count = output.count("\n") + 1, expected.count("\n") + 1
    if count != expected_count:  # counted first: millions of short lines would take twenty times their text's memory
        return f"{count} lines instead of {expected_count}"
    lines, expected_lines = output.split("\n"), expected.split("\n")
    for number, (line, expected_line) in enumerate(zip(lines, expected_lines, strict=True), 1):
        line, expected_line = line.strip(), expected_line.strip()
        if line != expected_line and not _same_numbers(line, expected_line):
            return f"line {number} differs"
    return None


def _same_numbers(line: str, expected: str) -> bool:
    expected_tokens = expected.split()
    tokens = line.split(maxsplit=len(expected_tokens))  # one more than expected at most, however many there are
    if len(tokens) != len(expected_tokens):
        return False
    try:
        # all of both lines first: one token that is no number makes the line wrong
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
        values.canonical(value, 1 << 62)
        return value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def value_matches(encoded: str, expected: Any, wildcards: bool = False) -> bool:
    """Whether the canonical text of a result equals the expected value.

    Never builds an object from ``encoded``: the text is followed along the expected value.

    Args:
      encoded: what the child sent.
      expected: the decoded expected value.
      wildcards: accept a nested element that claims to equal everything, as the official evaluator does; a whole
        result that claims it is refused.
    """
    right = values.canonical(expected, 1 << 62)
    if encoded == right:  # a NaN is written as what equals nothing, and equals nothing
        return values.OPAQUE not in right or _follow(encoded, 0, expected) == len(encoded)
    if not wildcards or not encoded.startswith(("[", "{")):
        return False
    return _follow(encoded, 0, expected) == len(encoded)


def _follow(text: str, at: int, expected: Any) -> int:
    """The position after the text of ``expected`` at ``at``, -1 where something else stands there."""
    if text.startswith(values.WILDCARD, at):
        return at + 1
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
    for index, (key, item) in enumerate(items):
        prefix = ("," if index else "") + key
        if not text.startswith(prefix, at):
            return -1
        at = _follow(text, at + len(prefix), item)
        if at < 0:
            return -1
    return at + 1 if text.startswith(closing, at) else -1
