"""Reads rows from JSON, JSON lines and Parquet, with errors that name the file, the row and the field."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from dreamprm_jax.schema import DataError, Skip
from dreamprm_jax.storage import open_parquet

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_PARQUET_ROWS = 64  # read at a time


def read_rows(path: Path, skips: list[Skip] | None = None, suffix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, row) of a file by its name's ending (``SUFFIXES``); ``where`` names the file and the row.

    Args:
      path: JSON lines (one object a line; blank lines are skipped), a JSON list of objects, or Parquet.
      skips: Receives rows that are no JSON object; without it the first one is an error.
      suffix: Overrides the name's ending.

    Raises:
      DataError: when the file as a whole cannot be read.
    """
    suffix = suffix or path.suffix
    try:
        if suffix in (".jsonl", ".gz"):
            rows = _lines(path, skips)
        elif suffix == ".json":
            rows = iter(enumerate(_json_list(path), start=1))
        elif suffix == ".parquet":
            rows = _parquet_rows(path)
        else:
            raise DataError(f"{path}: rows are read from {', '.join(SUFFIXES)} files")
        for number, row in rows:
            where = f"{path}, row {number}"
            if isinstance(row, dict):
                yield where, row
            else:
                error = DataError(f"{where}: a {json_type(row)} where a JSON object belongs")
                skip_or_raise(skips, where, error)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``read_rows`` of JSON lines, whatever the file's name ends in."""
    return read_rows(path, suffix=".jsonl")


def _lines(path: Path, skips: list[Skip] | None) -> Iterator[tuple[int, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                where = f"{path}, row {number}"
                try:
                    row = parse_json(line, where)
                except DataError as error:
                    skip_or_raise(skips, where, error)
                else:
                    yield number, row


def _json_list(path: Path) -> list[Any]:
    rows = parse_json(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: a {json_type(rows)} where a list of rows belongs")
    return rows


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    # re-uploads hold dates as timestamps
                    yield number, {k: v.isoformat() if isinstance(v, date) else v for k, v in row.items()}
    except pa.ArrowException as error:
        raise DataError(f"{path}: damaged after row {number} ({error})") from error


def skip_or_raise(skips: list[Skip] | None, where: str, error: DataError) -> None:
    """Takes note of a row that cannot be used; raises the error where there is no list of skips."""
    if skips is None:
        raise error
    name, _, row = where.partition(", ")
    skips.append(Skip(Path(name).name, row, str(error).removeprefix(where).lstrip(",: ")))


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


def id_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """An id, which may be a whole number. MBPP numbers its tasks: ``task_id`` 2 is the "Mbpp/2" of evalplus."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"Mbpp/{value}" if name == "task_id" else str(value)
    text = text_field(row, name, where)
    if not text.strip():
        raise DataError(f"{where}, field {name}: empty")
    return text


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
