"""Reads and writes Parquet and JSON. Files are written to a temporary name and renamed, so they are always complete."""

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

TEMPORARY = ".*.tmp"  # pattern of the files that atomic_path leaves behind if the process is killed

_WRITE_ROWS = 256  # rows converted to Arrow at once
_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 1 << 16, 32 << 20  # limits of a row group
_READ_ROWS, _READ_BYTES = 1024, 32 << 20  # limits of a batch; the bytes are approximate
_DACITE = dacite.Config(cast=[tuple, Verdict], check_types=True)


def file_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def disk_full_error(path: Path, error: OSError) -> DataError | None:
    """The error to raise if ``error`` means that ``path`` cannot grow (disk, quota, size limit); otherwise None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return DataError(
        f"{path}: cannot be written ({os.strerror(error.errno)}); free some space and run the same command again: "
        "finished work is kept"
    )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of ``path``; renames it into place on success, removes it on failure.

    Raises:
      DataError: if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # must match TEMPORARY
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
    """Reads JSON. Raises DataError, naming the file, if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON. Raises DataError if it is malformed, nested too deeply or not UTF-8."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, encoding, integers beyond Python's limit
        raise DataError(f"{where}: not valid JSON ({type(error).__name__}: {error})") from error


def write_records(path: Path, cls: type[Record], records: Iterable[Record]) -> int:
    """Writes records of one dataclass as Parquet, atomically and with bounded memory.

    Args:
      path: Path of the file; its folder is created.
      cls: The dataclass whose fields are the columns. Additional fields of subclasses are not written.
      records: Records, consumed as they are written.

    Returns:
      The number of records.

    Raises:
      DataError: if a column cannot hold a value, naming the file, row and field; if the disk is full.
    """
    schema, count, remaining = arrow_schema(cast(type, cls)), 0, iter(records)
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
    """The row and field of the first value that does not fit its column. ``start`` is the index of the first row."""
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
      DataError: if the file cannot be read or a value does not fit, naming the file, row and field.
    """
    return list(iterate_records(path, cls))


def iterate_records(path: Path, cls: type[Record]) -> Iterator[Record]:
    """Like ``read_records``, but yields the records with bounded memory."""
    names = arrow_schema(cast(type, cls)).names
    optional = {field.name for field in dataclasses.fields(cast(Any, cls)) if field.metadata.get("added")}
    with open_parquet(path) as file:
        present = file.schema_arrow.names
        names = [name for name in names if name in present or name not in optional]
        missing = [name for name in names if name not in present]
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


# ---------------------------------------------------------------- tables in the format of the file's extension

ENDINGS = (".parquet", ".jsonl", ".csv")


def check_ending(path: Path, option: str = "--output") -> None:
    """Raises DataError if ``write_table`` does not support the file's extension."""
    if path.suffix not in ENDINGS:
        raise DataError(f"{option}={path}: the extension must be one of {', '.join(ENDINGS)}")


def write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes the concatenation of tables of one schema atomically, in the format of the file's extension."""
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
    """Reads the rows of a Parquet, JSON lines or CSV file; every CSV cell is a string.

    Raises:
      DataError: if the file cannot be read, naming the file and the row.
    """
    check_ending(path, "file")
    if path.suffix == ".parquet":
        try:
            with open_parquet(path) as file:
                return file.read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged ({error})") from error
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            if path.suffix == ".csv":
                csv.field_size_limit(sys.maxsize)
                return list(csv.DictReader(handle))
            for number, line in enumerate(handle, 1):
                if line.strip():
                    row = parse_json(line, f"{path}, row {number}")
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, row {number}: must be a JSON object")
                    rows.append(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}, after row {len(rows)}: cannot be read ({error})") from error
    return rows


def column_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns."""
    with open_parquet(path) as file:
        return file.schema_arrow.names


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file. Raises DataError, naming the file, if it is missing or not Parquet."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def record_from_dict(cls: type[Record], row: dict[str, Any], location: str) -> Record:
    """Creates one record with type checks. ``location`` names the file and row in errors."""
    try:
        return dacite.from_dict(cls, row, config=_DACITE)
    except (dacite.DaciteError, ValueError) as error:
        raise DataError(f"{location}: {error}") from error
