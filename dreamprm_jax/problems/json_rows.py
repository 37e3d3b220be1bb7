"""Reads rows of JSON with errors that name the file, the row and the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamprm_jax.schema import DataError


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, row) for each line that is not blank; ``where`` names the file and the line.

    Raises:
      DataError: when the file is missing, not UTF-8, or a line is not a JSON object.
    """
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    where = f"{path}, row {number}"
                    row = parse_json(line, where)
                    if not isinstance(row, dict):
                        raise DataError(f"{where}: a {json_type(row)} where a JSON object belongs; one object a line")
                    yield where, row
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON. Raises DataError where it is malformed, too deep or not UTF-8."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, encoding, integers beyond Python's limit
        raise DataError(f"{where}: not valid JSON ({type(error).__name__}: {error})") from error


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be there and be text that can be stored (no lone surrogates)."""
    if name not in row:
        raise DataError(f"{where}, field {name}: missing; the row has {', '.join(sorted(row)) or 'no fields'}")
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{where}, field {name}: a {json_type(value)} where text belongs")
    if not is_unicode(value):
        raise DataError(f"{where}, field {name}: holds a lone surrogate, which no text file can store; repair the text")
    return value


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: lone surrogates, which JSON escapes can spell, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def json_type(value: Any) -> str:
    """The type of a parsed value in JSON's words."""
    names = {dict: "JSON object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
