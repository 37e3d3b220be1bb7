"""Parquet and JSON in and out: written to a temporary name and renamed, so that no reader ever sees half a file."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dacite
import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.schema import DataError, Verdict, arrow_schema

Record = TypeVar("Record")

_DACITE = dacite.Config(cast=[tuple, Verdict], check_types=True)


def disk_full_error(path: Path, error: OSError) -> DataError | None:
    """The error to show where ``error`` says that nothing more can be written at ``path``; None for another error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return DataError(
        f"{path}: cannot be written ({os.strerror(error.errno)}); free some space and run the same command again: "
        "what was finished is kept"
    )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of ``path``; renames it into place on success, removes it on failure.

    Raises:
      DataError: when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_full_error(path, error) or error from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON. Raises DataError that names the file when it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def write_records(path: Path, cls: type[Record], records: Iterable[Record]) -> int:
    """Writes records of one dataclass as Parquet, atomically. Returns how many.

    Raises:
      DataError: naming the file, the row and the field of a value that the column cannot hold.
    """
    rows = [dataclasses.asdict(record) for record in records]  # type: ignore[call-overload]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Verdict):
                row[name] = value.value
    try:
        table = pa.Table.from_pylist(rows, schema=arrow_schema(cls))
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise DataError(f"{path}{_first_misfit(rows, arrow_schema(cls))}: cannot be stored ({error})") from error
    return len(rows)


def _first_misfit(rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """The row and field of the first value that does not fit its column."""
    for index, row in enumerate(rows):
        for field in schema:
            try:
                fits = pa.array([row[field.name]], field.type).null_count == 0 or field.nullable
            except (pa.ArrowException, UnicodeEncodeError):
                fits = False
            if not fits:
                return f", row {index}, field {field.name!r}"
    return ""


def read_records(path: Path, cls: type[Record]) -> list[Record]:
    """Reads Parquet back into records of ``cls``.

    Raises:
      DataError: naming the file, and the row and field where one does not fit.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    missing = [name for name in arrow_schema(cls).names if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: column(s) {', '.join(missing)} missing; a {cls.__name__} file needs them")
    return [
        record_from_dict(cls, row, f"{path}, row {index}")
        for index, row in enumerate(table.select(arrow_schema(cls).names).to_pylist())
    ]


def record_from_dict(cls: type[Record], row: dict[str, Any], where: str) -> Record:
    """Builds one record with type checks. ``where`` names the file and row in the error."""
    try:
        return dacite.from_dict(cls, row, config=_DACITE)
    except (dacite.DaciteError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
