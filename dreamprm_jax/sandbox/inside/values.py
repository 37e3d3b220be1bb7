"""Canonical text of a value: equal texts exactly where Python's ``==`` between a result and a JSON value holds.

Both sides of a functional test are brought to this form, the result inside the child and the expected value in the
judge, so that the judge compares two strings and never builds an object from hostile bytes.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from typing import Any

OPAQUE = "?"  # equal to nothing
WILDCARD = "*"  # claims to be equal to everything (official mode only)


class TooLarge(Exception):
    """The text exceeds the limit."""


class Ambiguous(Exception):
    """An array whose comparison has no truth value."""


def canonical(value: Any, limit: int, wildcards: bool = False) -> str:
    """The canonical text of ``value``.

    Numbers that are equal have one text (True, 1 and 1.0 are ``1``), a top-level tuple counts as a list, a nested one
    does not. Whatever can equal no JSON value becomes ``?``.

    Args:
      value: what the function returned, or a decoded JSON value.
      limit: largest text, in characters.
      wildcards: give a nested element whose ``__eq__`` accepts everything the text ``*``, as the official evaluator
        would accept it.

    Raises:
      TooLarge: if the text exceeds ``limit``.
      Ambiguous: for an array of other than one element.
    """
    parts: list[str] = []
    writer = _Writer(parts, limit, wildcards)
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        if getattr(value, "ndim", 0) and value.size != 1:
            raise Ambiguous
        value = value.tolist()
    elif isinstance(value, tuple):
        value = list(value)
    writer.write(value, top=True)
    return "".join(parts)


class _Writer:
    def __init__(self, parts: list[str], limit: int, wildcards: bool) -> None:
        self.parts = parts
        self.left = limit
        self.wildcards = wildcards

    def put(self, text: str) -> None:
        self.left -= len(text)
        if self.left < 0:
            raise TooLarge
        self.parts.append(text)

    def write(self, value: Any, top: bool = False) -> None:
        kind = type(value)
        if kind is int or kind is bool:
            self.put(_integer(int(value)))
        elif kind is str:
            self.put(encode_basestring_ascii(value))
        elif kind is list:
            self.put("[")
            for index, item in enumerate(value):
                if index:
                    self.put(",")
                self.write(item)
            self.put("]")
        elif kind is float:
            self.put(_float(value))
        elif value is None:
            self.put("null")
        elif kind is dict:
            self.write_dict(value)
        else:
            self.write_other(value, kind, top)

    def write_dict(self, value: dict[Any, Any]) -> None:
        keys = list(dict.keys(value))
        if any(type(key) is not str for key in keys):
            self.put(OPAQUE)
            return
        self.put("{")
        for index, key in enumerate(sorted(keys)):
            if index:
                self.put(",")
            self.put(encode_basestring_ascii(key) + ":")
            self.write(dict.__getitem__(value, key))
        self.put("}")

    def write_other(self, value: Any, kind: type, top: bool) -> None:
        if kind.__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
            self.write(value.item())
            return
        for base in (int, str, float, list, dict):
            if not issubclass(kind, base):
                continue
            if base is dict and kind.__module__ == "collections" and kind.__name__ in ("Counter", "OrderedDict"):
                self.write_dict(value)
            elif kind.__eq__ is base.__eq__:
                self.write(_plain(base, value))
            elif self.wildcards and not top and _accepts_everything(value):
                self.put(WILDCARD)
            else:
                self.put(OPAQUE)
            return
        if self.wildcards and not top and _accepts_everything(value):
            self.put(WILDCARD)
        else:
            self.put(OPAQUE)


def _plain(base: type, value: Any) -> Any:
    if base is list:
        return list(list.__iter__(value))
    if base is dict:
        return dict(dict.items(value))
    if base is str:
        return str.__str__(value)
    return base.__pos__(value) if base is float else int.__index__(value)


def _accepts_everything(value: Any) -> bool:
    return (value == object()) is True


def _integer(value: int) -> str:
    # beyond the digit limit of int(), and linear in time
    return str(value) if -(10**2000) < value < 10**2000 else hex(value)


def _float(value: float) -> str:
    if value != value:
        return OPAQUE
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return _integer(int(value)) if value.is_integer() else repr(value)
