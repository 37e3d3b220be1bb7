"""Canonical text of a value: two texts are equal exactly if Python's ``==`` between a result and a JSON value holds.

Both sides of a functional test are converted to this form: the result in the child, the expected value in the judge. So
the judge compares two strings and never builds an object from hostile bytes. Values that compare differently from JSON
values have a mark that the comparison understands. For example, NumPy's promotion makes ``float32(0.1)`` equal to 0.1
but not to [0.1], and an array of two elements can be neither equal nor unequal to anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any

OPAQUE = "?"  # equal to nothing
WILDCARD = "*"  # claims to be equal to everything (official mode only)
ERROR = "!"  # the comparison raises an error
SIGNALLING = "!#"  # the comparison with a number raises an error
COUNT = "\x02"  # around the length of a list or dict that contains an error; a different length avoids the error
MARK = "\x01"  # between the text of a NumPy value of one element and one letter, its kind


class TooLarge(Exception):
    """The text exceeds the limit."""


class Ambiguous(Exception):
    """A value whose comparison has no truth value."""


def without_marks(encoded: str) -> str:
    """The text without the marks of NumPy values, for a checker."""
    return re.sub(MARK + ".", "", encoded)


def canonical(value: Any, limit: int, wildcards: bool = False) -> str:
    """The canonical text of ``value``.

    Equal numbers have the same text (True, 1 and 1.0 are ``1``). A top-level tuple counts as a list; a nested one does
    not. A value that cannot equal any JSON value becomes ``?``. Types of the standard library, NumPy and
    sortedcontainers are converted according to their own ``==``.

    Args:
      value: The function's result, or a decoded JSON value.
      limit: Maximum size of the text, in characters.
      wildcards: Write ``*`` for a nested element whose ``__eq__`` accepts everything, which the official evaluator
        would accept.

    Raises:
      TooLarge: if the text exceeds ``limit``.
      Ambiguous: if the whole result cannot be compared: an array that does not have exactly one element.
    """
    parts: list[str] = []
    _Writer(parts, limit, wildcards).write(list(value) if isinstance(value, tuple) else value, top=True)
    if parts[0] == ERROR:
        raise Ambiguous("the truth value of an array is ambiguous")
    return "".join(parts)


class _Writer:
    def __init__(self, parts: list[str], limit: int, wildcards: bool) -> None:
        self.parts = parts
        self.left = limit
        self.wildcards = wildcards
        self.errors = 0

    def put(self, text: str) -> None:
        self.left -= len(text)
        if self.left < 0:
            raise TooLarge
        self.parts.append(text)

    def open(self, bracket: str) -> tuple[int, int]:
        self.put(bracket)
        return len(self.parts) - 1, self.errors

    def close(self, bracket: str, opening: tuple[int, int], count: int) -> None:
        position, errors = opening
        if self.errors > errors:
            self.parts[position] += f"{COUNT}{count}{COUNT}"
        self.put(bracket)

    def error(self, text: str) -> None:
        self.errors += 1
        self.put(text)

    def write(self, value: Any, top: bool = False) -> None:
        kind = type(value)
        if kind is int or kind is bool:
            self.put(_integer(int(value)))
        elif kind is str:
            self.put(encode_basestring_ascii(value))
        elif kind is list:
            opening = self.open("[")
            for index, item in enumerate(value):
                if index:
                    self.put(",")
                self.write(item)
            self.close("]", opening, len(value))
        elif kind is float:
            self.put(_float(value))
        elif value is None:
            self.put("null")
        elif kind is dict:
            self.write_dict(value)
        elif kind is _Signalling:
            self.error(SIGNALLING)
        else:
            self.write_other(value, kind, top)

    def write_dict(self, value: dict[Any, Any]) -> None:
        items = {_key(key): key for key in dict.keys(value)}
        if None in items:
            self.put(OPAQUE)
            return
        opening = self.open("{")
        for index, text in enumerate(sorted(key for key in items if key is not None)):
            if index:
                self.put(",")
            self.put(encode_basestring_ascii(text) + ":")
            self.write(dict.__getitem__(value, items[text]))
        self.close("}", opening, len(items))

    def write_other(self, value: Any, kind: type, top: bool) -> None:
        if kind.__module__ == "numpy" and hasattr(value, "dtype") and hasattr(value, "item"):
            self.write_numpy(value)
            return
        equality = kind.__eq__
        for module, name, plain in _EQUALITIES:
            known = getattr(sys.modules.get(module), name, None)
            if known is not None and equality is known.__eq__:
                self.write(plain(value))
                return
        try:
            everything = (value == object()) is True
        except Exception:
            self.error(ERROR)
        else:
            self.put(WILDCARD if everything and self.wildcards and not top else OPAQUE)

    def write_numpy(self, value: Any) -> None:
        """Writes a NumPy scalar or array."""
        letter = value.dtype.kind
        if isinstance(value, str):
            self.put(encode_basestring_ascii(str.__str__(value)))
        elif value.size != 1:
            self.error(ERROR)
        elif letter in "biu":
            self.put(_integer(int(value.item())) + MARK + "i")
        elif letter in "fc":
            item = value.item()
            number = float(item.real)
            size = value.dtype.itemsize // (2 if letter == "c" else 1)
            exact = item.imag == 0 and number == item.real
            self.put((_float(number) if exact else OPAQUE) + MARK + {2: "e", 4: "f"}.get(size, "d"))
        elif letter == "U":
            self.put(encode_basestring_ascii(value.item()) + MARK + "o")
        elif letter == "O" and type(value.item()) in (int, float, bool, str, type(None)):
            self.write(value.item())
            self.put(MARK + "o")
        else:
            self.put(OPAQUE if isinstance(value, bytes) else OPAQUE + MARK + "o")


class _Signalling:
    """A signalling NaN of ``decimal``. Comparing it with a number is an error."""


def _plain(base: type, value: Any) -> Any:
    if base is list:
        return list(list.__iter__(value))
    if base is dict:
        return dict(dict.items(value))
    if base is str:
        return str.__str__(value)
    return base.__pos__(value) if base is float else int.__index__(value)


def _key(key: Any) -> str | None:
    """The JSON key that equals ``key``, if there is one."""
    kind = type(key)
    if kind is str:
        return key
    user = getattr(sys.modules.get("collections"), "UserString", None)
    if user is not None and kind.__eq__ is user.__eq__ and kind.__hash__ is user.__hash__:
        key = key.data
    if not isinstance(key, str):
        return None
    text = str.__str__(key)
    return text if hash(key) == hash(text) and bool(key == text) else None


def _decimal(value: Any) -> Any:
    if value.is_snan():
        return _Signalling()
    if not value.is_finite():
        return float(value)
    if value == 0 or (value.adjusted() < 100_000 and value == value.to_integral_value()):
        return int(value)
    return _rounded(value)


def _fraction(value: Any) -> Any:
    return int(value) if value.denominator == 1 else _rounded(value)


def _rounded(value: Any) -> float:
    """The float that equals ``value``, NaN if there is none."""
    try:
        number = float(value)
    except OverflowError:
        return float("nan")
    return number if value == number else float("nan")


# module and class that define an ``__eq__``, and a conversion to a plain value that equals the same JSON values
_EQUALITIES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    *(
        ("builtins", base.__name__, lambda value, base=base: _plain(base, value))
        for base in (int, str, float, list, dict)
    ),
    ("builtins", "complex", lambda value: float("nan") if value.imag else value.real),
    ("types", "MappingProxyType", dict),
    ("decimal", "Decimal", _decimal),
    ("fractions", "Fraction", _fraction),
    ("collections", "Counter", lambda value: _plain(dict, value)),
    ("collections", "OrderedDict", lambda value: _plain(dict, value)),
    ("collections", "UserList", lambda value: value.data),
    ("collections", "UserString", lambda value: value.data),
    ("collections.abc", "Mapping", lambda value: dict(value.items())),
    ("sortedcontainers", "SortedList", list),
)


def _integer(value: int) -> str:
    # hex has no digit limit, unlike str, and takes linear time
    return str(value) if -(10**2000) < value < 10**2000 else hex(value)


def _float(value: float) -> str:
    if value != value:
        return OPAQUE
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return _integer(int(value)) if value.is_integer() else repr(value)
