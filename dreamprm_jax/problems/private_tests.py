"""Reads LiveCodeBench's private tests without executing anything.

A row has a JSON list, or base64(zlib(pickle(JSON list as one string))); the form without the pickle is also accepted. A
pickle is a program, and a data file must not be executed. This reader supports only the opcodes that encode one string
and rejects all others, limits the decompressed size, and checks the result against the schema.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any, Literal

from dreamprm_jax.problems.json_rows import text_field, type_error
from dreamprm_jax.schema import DataError, TestCase
from dreamprm_jax.storage import parse_json

DEFAULT_MAX_BYTES = 512 << 20

# pickle opcodes (pickletools.opcodes); the dicts map an opcode to the size in bytes of its length or argument
_PROTO, _FRAME, _STOP, _MEMOIZE = 0x80, 0x95, ord("."), 0x94
_PUT, _BINPUT, _LONG_BINPUT = ord("p"), ord("q"), ord("r")
_UNICODE = ord("V")
_SIZED_TEXT = {0x8C: 1, ord("X"): 4, 0x8D: 8}
_SKIPPED = {_PROTO: 1, _FRAME: 8, _MEMOIZE: 0, _BINPUT: 1, _LONG_BINPUT: 4}


def parse_tests(value: Any, where: str, max_bytes: int = DEFAULT_MAX_BYTES, testtype: str = "") -> tuple[TestCase, ...]:
    """Parses the tests of a row's ``public_test_cases`` or ``private_test_cases``.

    Args:
      value: A JSON list of {input, output, testtype} as text, or its packed form. Re-uploads of the data have the list
        itself, an object of lists (as written by the package datasets), or null or "" if there are no tests.
      where: File, row and field, for errors.
      max_bytes: Maximum decompressed size in bytes.
      testtype: Default type for tests without this field; "": the field is required.

    Raises:
      DataError: if the value has none of these forms, exceeds the size, or does not fit the schema.
    """
    rows = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if isinstance(rows, str):
        body = rows.strip() or "null"
        rows = parse_json(body if body == "null" or body[0] in "[{" else _unpack(body, where, max_bytes), where)
    if isinstance(rows, dict) and rows and all(isinstance(column, list) for column in rows.values()):
        rows = [dict(zip(rows, cells, strict=False)) for cells in zip(*rows.values(), strict=False)]
    rows = [] if rows is None else rows
    if not isinstance(rows, list):
        raise type_error(where, rows, "a list of tests")
    return tuple(_test_case(row, f"{where}, test {index}", testtype) for index, row in enumerate(rows))


def _test_case(row: Any, where: str, default: str) -> TestCase:
    if not isinstance(row, dict):
        raise type_error(where, row, "an object with input, output and testtype")
    given = row.get("testtype") is not None or not default
    testtype = text_field(row, "testtype", where).removeprefix("TestType.").lower() if given else default
    if testtype not in ("stdin", "functional", "code"):
        raise DataError(f"{where}, field testtype: must be 'stdin', 'functional' or 'code', not {testtype!r}")
    kind: Literal["stdin", "functional", "code"] = testtype  # type: ignore[assignment]
    return TestCase(text_field(row, "input", where), text_field(row, "output", where), kind)


def _unpack(text: str, where: str, max_bytes: int) -> str:
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: neither a JSON list nor base64 ({error})") from error
    data = _inflate(packed, where, max_bytes)
    return data.decode("utf-8", "replace") if data[:1] == b"[" else read_pickled_string(data, where)


def _inflate(packed: bytes, where: str, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise DataError(f"{where}: not zlib data ({error})") from error
    if len(data) > max_bytes:
        raise DataError(
            f"{where}: decompresses to more than {max_bytes:,} bytes; increase problems.max_private_test_bytes if you "
            "trust it"
        )
    if not inflater.eof or inflater.unused_data:
        raise DataError(f"{where}: the zlib data is {'followed by other data' if inflater.eof else 'truncated'}")
    return data


def read_pickled_string(data: bytes, where: str) -> str:
    """The value of a pickle of any protocol that contains exactly one string. Executes nothing.

    Raises:
      DataError: on any opcode that is not needed to encode one string, and on malformed data.
    """
    position, value = 0, None
    while True:
        if position >= len(data):
            raise DataError(f"{where}: the pickle has no end")
        opcode = data[position]
        position += 1
        if opcode == _STOP:
            if value is None or position != len(data):
                raise DataError(
                    f"{where}: the pickle {'holds no string' if value is None else 'has data after its end'}"
                )
            return value
        if opcode in _SKIPPED:
            position += _SKIPPED[opcode]
        elif opcode == _PUT:
            position = _line_end(data, position, where) + 1
        elif value is None and (opcode in _SIZED_TEXT or opcode == _UNICODE):
            if opcode == _UNICODE:
                start, end = position, _line_end(data, position, where)
                position, encoding = end + 1, "raw-unicode-escape"
            else:
                start = position + _SIZED_TEXT[opcode]
                end = start + int.from_bytes(data[position:start], "little")
                position, encoding = end, "utf-8"
            if end > len(data):
                raise DataError(f"{where}: the pickle's string is truncated")
            try:
                value = data[start:end].decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: the pickle's string is not {encoding} ({error.reason})") from error
        else:
            raise DataError(
                f"{where}: refused: the pickle is more than one string (opcode 0x{opcode:02x} at byte {position - 1}); "
                "do not load it elsewhere either: unpickling can run code"
            )


def _line_end(data: bytes, position: int, where: str) -> int:
    end = data.find(b"\n", position)
    if end < 0:
        raise DataError(f"{where}: the pickle is truncated")
    return end
