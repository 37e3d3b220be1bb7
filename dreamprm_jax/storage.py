"""Parquet and JSON in and out: written to a temporary name and renamed, so that no reader ever sees half a file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import dacite
import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.schema import DataError, Verdict, arrow_schema

Record = TypeVar("Record")

TEMPORARY = ".*.tmp"  # matches what atomic_path leaves behind where the process is killed

_WRITE_ROWS = 256  # rows that are converted to Arrow at once
_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 1 << 16, 32 << 20  # a row group ends at whichever comes first
_READ_ROWS, _READ_BYTES = 1024, 32 << 20  # a batch is read of at most so many rows, and about so many bytes
_DACITE = dacite.Config(cast=[tuple, Verdict], check_types=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # as TEMPORARY says
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
    """Writes records of one dataclass as Parquet, atomically, a bounded number of bytes at a time.

    Args:
      path: of the file; its folder is created.
      cls: whose fields are the columns. A record may be of a subclass; its further fields are not written.
      records: consumed as they are written.

    Returns:
      The number of records.

    Raises:
      DataError: naming the file, the row and the field of a value that the column cannot hold; when the disk is full.
    """
    schema, count, remaining = arrow_schema(cls), 0, iter(records)
    group: list[pa.Table] = []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while rows := [_row(record) for record in itertools.islice(remaining, _WRITE_ROWS)]:
            try:
                group.append(pa.Table.from_pylist(rows, schema=schema))
                if missing := [f.name for f in schema if not f.nullable and group[-1][f.name].null_count]:
                    raise pa.ArrowInvalid(f"{missing[0]} is missing")
            except (pa.ArrowException, UnicodeEncodeError) as error:
                raise DataError(f"{path}{_first_misfit(rows, schema, count)}: cannot be stored ({error})") from error
            count += len(rows)
            if sum(map(len, group)) >= _ROW_GROUP_ROWS or sum(table.nbytes for table in group) >= _ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(group), row_group_size=_ROW_GROUP_ROWS)
                group = []
        if group or not count:
            writer.write_table(pa.concat_tables(group) if group else schema.empty_table())
    return count


def _row(record: Any) -> dict[str, Any]:
    row = dataclasses.asdict(record)
    for name, value in row.items():
        if isinstance(value, Verdict):
            row[name] = value.value
    return row


def _first_misfit(rows: list[dict[str, Any]], schema: pa.Schema, start: int) -> str:
    """The row and field of the first value that does not fit its column. ``start`` is the first row's number."""
    for index, row in enumerate(rows, start):
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
    return list(iterate_records(path, cls))


def iterate_records(path: Path, cls: type[Record]) -> Iterator[Record]:
    """As ``read_records``, some rows at a time."""
    names = arrow_schema(cls).names
    optional = {field.name for field in dataclasses.fields(cast(Any, cls)) if field.metadata.get("added")}
    with open_parquet(path) as file:
        there = file.schema_arrow.names
        names = [name for name in names if name in there or name not in optional]
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(f"{path}: column(s) {', '.join(missing)} missing; a {cls.__name__} file needs them")
        index = 0
        row_bytes = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)) // max(
            file.metadata.num_rows, 1
        )
        batches = file.iter_batches(min(_READ_ROWS, max(1, _READ_BYTES // max(row_bytes, 1))), columns=names)
        while True:
            try:
                rows = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path}: damaged after row {index} ({error})") from error
            if rows is None:
                return
            for row in rows.to_pylist():
                yield record_from_dict(cls, row, f"{path}, row {index}")
                index += 1


# ---------------------------------------------------------------- tables whose format is that of the file's ending

ENDINGS = (".parquet", ".jsonl", ".csv")


def check_ending(path: Path, option: str = "--output") -> None:
    """Raises DataError where the file's ending names no format of ``write_table``."""
    if path.suffix not in ENDINGS:
        raise DataError(f"{option}={path}: the ending names the format: {', '.join(ENDINGS)}")


def write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes tables of one schema, one after another, in the format of the file's ending; atomically."""
    check_ending(path)
    with atomic_path(path) as temporary:
        write_rows(temporary, path.suffix, schema, tables)


def write_rows(path: Path, ending: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes Parquet, JSON lines or CSV (lists as JSON)."""
    if ending == ".parquet":
        with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
            for table in tables:
                parquet.write_table(table)
        return
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if ending == ".csv":
            writer.writerow(schema.names)
        for table in tables:
            for row in table.to_pylist():
                if ending == ".csv":
                    writer.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in row.values()])
                else:
                    handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that ``write_table`` wrote, or of one like it; every cell of CSV is text.

    Raises:
      DataError: naming the file, and the line that cannot be read.
    """
    check_ending(path, "file")
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            return file.read().to_pylist()
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            if path.suffix == ".csv":
                csv.field_size_limit(sys.maxsize)
                return list(csv.DictReader(handle))
            for number, line in enumerate(handle, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, row {number}: a JSON object belongs here")
                    rows.append(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}, after row {len(rows)}: cannot be read ({error})") from error
    return rows


def column_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns."""
    with open_parquet(path) as file:
        return file.schema_arrow.names


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file. Raises DataError that names it when it is missing or not Parquet."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def record_from_dict(cls: type[Record], row: dict[str, Any], where: str) -> Record:
    """Builds one record with type checks. ``where`` names the file and row in the error."""
    try:
        return dacite.from_dict(cls, row, config=_DACITE)
    except (dacite.DaciteError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
