"""Reads rows from JSON, JSON lines and Parquet, with errors that name the file, the row and the field."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from dreamprm_jax.schema import DataError, Skip
from dreamprm_jax.storage import open_parquet, parse_json

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_TEXT = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*_TEXT, ".parquet", *(text + packed for text in _TEXT for packed in _OPENERS))
ENDINGS = f"{', '.join(_TEXT)} (also packed: {', '.join(_OPENERS)}) or .parquet"  # for messages
_REST = re.compile(r"( \(\w+_id [^()]*\))?[,: ]*(.*)", re.DOTALL)  # parts of an error message: the problem, the reason
_SPACE = tuple(bytes([byte]) for byte in b"\xef\xbb\xbf \t\r\n")  # white space and the byte order mark
_PARQUET_ROWS = 64  # rows per batch
READ_BYTES = 1 << 20


def read_rows(path: Path, skips: list[Skip] | None = None, suffix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, row) of a file; ``where`` names the file and the row.

    Args:
      path: As in ``numbered_values``.
      skips: Receives rows that are not JSON objects; without it, the first one is an error.
      suffix: Overrides the file's extension.

    Raises:
      DataError: if the file as a whole cannot be read.
    """
    for number, row in numbered_rows(path, suffix=suffix):
        where = f"{path}, row {number}"
        if isinstance(row, DataError):
            skip_or_raise(skips, where, row)
        else:
            yield where, row


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``read_rows`` for JSON lines, regardless of the file name."""
    return read_rows(path, suffix=".jsonl")


def numbered_rows(
    path: Path, columns: Collection[str] | None = None, suffix: str = ""
) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """As ``numbered_values``, but a row that is not a JSON object is replaced by its error."""
    for number, row in numbered_values(path, columns, suffix):
        if not isinstance(row, (dict, DataError)):
            row = type_error(f"{path}, row {number}", row, "a JSON object")
        yield number, row


def numbered_values(path: Path, columns: Collection[str] | None = None, suffix: str = "") -> Iterator[tuple[int, Any]]:
    """Yields (number, value), one in memory at a time. A value that cannot be parsed is replaced by its DataError.

    Args:
      path: JSON lines (blank lines are skipped), JSON (a list, JSON lines or one object) or Parquet, according to the
        file's extension (``SUFFIXES``).
      columns: Parquet columns to read; None for all.
      suffix: Overrides the file's extension.

    Raises:
      DataError: if the file as a whole cannot be read.
    """
    suffix = suffix or row_suffix(path)
    with file_errors(path):
        if suffix in (".jsonl", ".ndjson"):
            yield from _lines(path)
        elif suffix == ".json":
            yield from _json_values(path)
        elif suffix == ".parquet":
            yield from _parquet_rows(path, columns)
        else:
            raise DataError(f"{path}: rows are read from {ENDINGS} files")


def row_suffix(path: Path) -> str:
    """The extension for the file's format, without the extension for its compression."""
    return path.with_suffix("").suffix if path.suffix in _OPENERS else path.suffix


def _open(path: Path) -> BinaryIO:
    return _OPENERS.get(path.suffix, open)(path, "rb")


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Converts errors that occur while a file is read to DataErrors with its name."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                try:
                    yield number, parse_json(line, f"{path}, row {number}")
                except DataError as error:
                    yield number, error


def _json_values(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as handle:  # a list may be a single line of gigabytes, so its start decides
        head = handle.read(1)
        while head in _SPACE:
            head = handle.read(1)
        if head != b"{":
            yield from enumerate(json_array(path), start=1)
            return
        first = head + handle.readline()
        with contextlib.suppress(DataError):
            parse_json(first, "")
            yield from _lines(path)
            return
        yield 1, parse_json(first + handle.read(), str(path))


def json_array(path: Path) -> Iterator[Any]:
    """Yields the elements of a file that holds one JSON list, possibly compressed, without holding the list in memory.

    Raises:
      DataError: names the first element that is not valid JSON; nothing after it can be read.
    """
    decoder = json.JSONDecoder()
    with io.TextIOWrapper(_open(path), encoding="utf-8", errors="surrogateescape") as handle:
        text, ended, number = "", False, 0

        def more() -> None:
            nonlocal text, ended
            part = handle.read(max(READ_BYTES, len(text)))  # doubling limits failed attempts to parse a long element
            ended = not part
            text += part

        def fail(problem: str) -> DataError:
            return DataError(f"{path}, row {number + 1}: {problem}")

        def skip_space() -> None:
            nonlocal text
            text = text.lstrip(" \t\r\n\ufeff")
            while not text and not ended:
                more()
                text = text.lstrip(" \t\r\n\ufeff")

        skip_space()
        if not text.startswith("["):
            raise DataError(f"{path}: must be a list of rows (an eval_all file, not its metrics)")
        text = text[1:]
        skip_space()
        while not text.startswith("]"):
            while True:
                try:
                    value, end = decoder.raw_decode(text)
                    # A number at the buffer's end may continue; anything else is complete.
                    if end < len(text) or ended:
                        break
                except RecursionError as error:
                    raise fail("not valid JSON (nested too deeply)") from error
                except ValueError as error:
                    if ended:
                        raise fail(f"not valid JSON ({error})") from error
                more()
            yield value
            number += 1
            text = text[end:]
            skip_space()
            if text.startswith(","):
                text = text[1:]
                skip_space()
            elif not text.startswith("]"):
                raise fail("a comma or the end of the list is missing before it")


def _parquet_rows(path: Path, wanted: Collection[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with open_parquet(path) as file:
            columns = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    # re-uploads of the data have timestamps as dates
                    yield number, {k: v.isoformat() if isinstance(v, date) else v for k, v in row.items()}
    except pa.ArrowException as error:
        raise DataError(f"{path}: damaged after row {number} ({error})") from error


def skip_or_raise(skips: list[Skip] | None, where: str, error: DataError) -> None:
    """Adds the error of an unusable row to ``skips``; raises the error if that is None."""
    if skips is None:
        raise error
    name, _, row = where.partition(", ")
    which, reason = _REST.fullmatch(str(error).removeprefix(where)).groups("")  # type: ignore[union-attr]
    skips.append(Skip(Path(name).name, row + which, reason))


def reason_of(error: DataError, *places: str) -> str:
    """The text of an error without the given places, in this order, at its beginning."""
    text = str(error)
    for place in places:
        text = text.removeprefix(place)
    return text.lstrip(",: ")


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A required text field. Lone surrogates are errors, because they cannot be stored."""
    if name not in row:
        raise DataError(f"{where}, field {name}: missing; the row has {', '.join(sorted(row)) or 'no fields'}")
    value = row[name]
    if not isinstance(value, str):
        raise type_error(f"{where}, field {name}", value, "a string")
    if not is_unicode(value):
        raise DataError(f"{where}, field {name}: contains a lone surrogate, which cannot be stored; repair the text")
    return value


def id_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """An id, which may be an integer in the file. A ``task_id`` of 2 (MBPP) becomes "Mbpp/2", as in evalplus."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():  # a column of numbers with nulls
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"Mbpp/{value}" if name == "task_id" else str(value)
    text = text_field(row, name, where)
    if not text.strip() or "\0" in text:
        wrong = "contains a NUL character; repair the text" if text.strip() else "empty"
        raise DataError(f"{where}, field {name}: {wrong}")
    return text


def check_text(text: str, where: str) -> str:
    """Returns the text. Raises DataError if it contains a lone surrogate or a NUL character."""
    if not is_unicode(text) or "\0" in text:
        raise DataError(f"{where}: contains a lone surrogate or a NUL character; repair the text")
    return text


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded, that is, has no lone surrogates (which JSON escapes can express)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def json_type(value: Any) -> str:
    """The name of a parsed value's type in JSON, with its article."""
    names = {dict: "a JSON object", list: "a list", str: "a string", bool: "a boolean"}
    names |= dict.fromkeys((int, float), "a number")
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def type_error(where: str, value: Any, wanted: str) -> DataError:
    """The error for a value that is not of the ``wanted`` type."""
    return DataError(f"{where}: must be {wanted}, not {json_type(value)}")
