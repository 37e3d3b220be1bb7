"""Comparisons of answers that a setting or a problem selects: by options, or by a Python function.

Options are words, separated by commas: ``exact`` (every character counts), ``tokens`` (white space and line ends do
not count), ``unordered`` (lines, or items of a returned list, in any order), ``ignore_case``, ``abs=X`` and ``rel=X``
(numbers within a tolerance), ``any_of`` (the expected output is a JSON list of alternatives). Without ``exact`` or
``tokens``, text is compared line by line, ignoring white space at the ends of lines.

A Python checker is FILE.py:FUNCTION, or the text of a program that defines ``check``. It is called with the input, the
expected output and the program's output (of a function: its value as JSON), all as text, and returns True or False. It
runs in the sandbox like the programs: modules next to its file cannot be imported. A checker fails if it raises,
prints, exceeds a limit, returns anything else, or tries what the sandbox denies, even if it catches the error.
(Importing zoneinfo and running asyncio's event loop are such cases, since both make a denied call.) If a checker fails
on an answer but not on the expected output in its place, the answer is wrong; otherwise there is no verdict
(INVALID_TASK). A checker must not run the answer, because code in the answer could then decide.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from dreamprm_jax.sandbox.compare import expected_value
from dreamprm_jax.schema import DataError, content_hash
from dreamprm_jax.user_code import is_user_function

_WORDS = ("exact", "tokens", "unordered", "ignore_case", "any_of")
_TOLERANCES = {"abs": "absolute", "rel": "relative"}
_CONTEXT = Context(prec=60, traps=[])  # for differences; exact for integers of up to 60 digits
_LAST = Decimal("Infinity")
_ENTRY = "__checked__"
_WRAPPER = """
def __checked__(given, expected, answer):
    import os, sys
    result = {function}(given, expected, answer)
    sys.stdout.flush()
    if os.fstat(1).st_size:
        raise RuntimeError("it printed")
    if type(result).__name__ not in ("bool", "bool_"):
        raise TypeError("it returned a %s, not True or False" % type(result).__name__)
    return bool(result)
"""


@dataclass(frozen=True)
class Comparison:
    """How an answer is compared with the expected one.

    Attributes:
      exact: Compare texts unchanged; only ``ignore_case`` and ``any_of`` can be combined with it.
      tokens: Compare sequences of words.
      unordered: Compare lines, or items of a list, in any order. With a tolerance, both sides are sorted first.
      ignore_case: Ignore case.
      any_of: The expected output is a JSON list of alternatives.
      absolute: Absolute tolerance of numbers.
      relative: Tolerance relative to the expected number.
      code: Program of a checker, which replaces all other options; "" for none.
      function: The function in ``code`` to call.
    """

    exact: bool = False
    tokens: bool = False
    unordered: bool = False
    ignore_case: bool = False
    any_of: bool = False
    absolute: float = 0.0
    relative: float = 0.0
    code: str = ""
    function: str = ""

    @classmethod
    def parse(cls, text: str, where: str) -> Comparison | None:
        """Parses a setting or a problem's field; None if it is empty.

        Raises:
          DataError: prefixed with ``where``, on an unknown option, an invalid number or an unreadable file.
        """
        text = text.strip()
        if not text:
            return None
        if is_user_function(text):
            file, _, function = text.rpartition(":")
            try:
                return cls(code=Path(file).read_text(encoding="utf-8"), function=function)
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: {file} cannot be read ({error})") from error
        if "def check(" in text:
            return cls(code=text, function="check")
        found: dict[str, Any] = {}
        for word in text.replace(",", " ").split():
            name, equals, number = word.partition("=")
            if word in _WORDS:
                found[word] = True
            elif name in _TOLERANCES and equals:
                found[_TOLERANCES[name]] = _tolerance(number, f"{where}: {word}")
            else:
                raise DataError(
                    f"{where}: {word[:80]!r} is not one of {', '.join(_WORDS)}, abs=X, rel=X, FILE.py:FUNCTION, or a "
                    "program that defines check(given, expected, answer)"
                )
        if "exact" in found and found.keys() & {"tokens", "unordered", "absolute", "relative"}:
            raise DataError(f"{where}: exact can be combined only with ignore_case and any_of")
        return cls(**found)

    @property
    def digest(self) -> str:
        """Hash of the options and of the checker's code, independent of file names."""
        return content_hash(repr(self), digits=16)

    @property
    def program(self) -> tuple[str, str]:
        """The checker as the sandbox runs it: its code, and the function to call."""
        return f"{self.code}\n{_WRAPPER.format(function=self.function)}", _ENTRY

    def matches(self, answer: str, expected: str, functional: bool) -> bool:
        """Whether an answer is right.

        Args:
          answer: Standard output, or a returned value as canonical JSON; hostile.
          expected: The test's output.
          functional: Whether both are values.

        Raises:
          ValueError: if the expected output is not the required JSON.
        """
        same = self._same_values if functional else self._same_text
        wanted = expected_value(expected) if functional or self.any_of else expected
        if self.any_of and not (isinstance(wanted, list) and wanted):
            raise ValueError("any_of needs a JSON list of at least one answer")
        given: Any = answer
        if functional:
            try:
                given = json.loads(answer)
            except (ValueError, RecursionError):  # a value that equals no JSON value
                return False
        try:
            return any(same(given, one) for one in (wanted if self.any_of else [wanted]))
        except RecursionError:
            return False

    def _fold(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text

    def _same_text(self, answer: str, expected: Any) -> bool:
        if not isinstance(expected, str):
            raise ValueError("any_of needs a JSON list of strings")
        answer, expected = self._fold(answer), self._fold(expected)
        if self.exact or answer == expected:
            return answer == expected
        answer, expected = answer.strip(), expected.strip()
        if answer.count("\n") != expected.count("\n") and not self.tokens:  # avoids a list of millions of lines
            return False
        if self.tokens and not self.unordered:
            words, wanted = answer.split(maxsplit=len(expected.split())), expected.split()
            return len(words) == len(wanted) and all(map(self._same_token, words, wanted))
        lines = [line.split() for line in answer.split("\n")]
        others = [line.split() for line in expected.split("\n")]
        if self.unordered:
            lines, others = sorted(lines, key=_order), sorted(others, key=_order)
        return len(lines) == len(others) and all(
            len(line) == len(other) and all(map(self._same_token, line, other))
            for line, other in zip(lines, others, strict=True)
        )

    def _same_token(self, word: str, wanted: str) -> bool:
        return word == wanted or (
            (number := _number(word)) is not None
            and (expected := _number(wanted)) is not None
            and self._near(number, expected)
        )

    def _near(self, number: Decimal, expected: Decimal) -> bool:
        if number == expected or not (number.is_finite() and expected.is_finite()):
            return number == expected
        difference = abs(_CONTEXT.subtract(number, expected))
        return difference <= max(Decimal(self.absolute), _CONTEXT.multiply(Decimal(self.relative), abs(expected)))

    def _same_values(self, given: Any, wanted: Any, top: bool = True) -> bool:
        if isinstance(wanted, str):
            return isinstance(given, str) and self._fold(given) == self._fold(wanted)
        if isinstance(wanted, (int, float)):
            return isinstance(given, (int, float)) and self._near(Decimal(given), Decimal(wanted))
        inner = functools.partial(self._same_values, top=False)
        if isinstance(wanted, list):
            if not isinstance(given, list) or len(given) != len(wanted):
                return False
            if self.unordered and top:
                given, wanted = (
                    sorted(items, key=lambda item: _order([json.dumps(item)])) for items in (given, wanted)
                )
            return all(map(inner, given, wanted))
        if isinstance(wanted, dict):
            return (
                isinstance(given, dict)
                and given.keys() == wanted.keys()
                and all(inner(given[key], wanted[key]) for key in wanted)
            )
        return given is wanted  # None


def _tolerance(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise DataError(f"{where}: needs a number after =") from error
    if not (math.isfinite(number) and number >= 0):
        raise DataError(f"{where}: a tolerance must be finite and not negative")
    return number


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text) if text.isascii() and "_" not in text else None
    except (InvalidOperation, ValueError):
        return None
    return None if number is None or number.is_nan() else number


def _order(words: list[str]) -> list[tuple[Decimal, str]]:
    """Sorts numbers by value, so that two sides that differ within a tolerance are sorted in the same way."""
    return [(_LAST, word) if (number := _number(word)) is None else (number, "") for word in words]
