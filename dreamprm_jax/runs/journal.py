"""The journal of finished work units. It is append-only, every line has a checksum, and the first commit of a key wins.

Each line holds one unit: the CRC-32 of the rest of the line, then JSON ``[key, value]``. A line is written in a single
``write`` call, so a killed process leaves at most one incomplete line at the end, which is removed when the journal is
opened. Values stay on disk; memory holds only the position of each key's line (``key_index``).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamprm_jax.runs.key_index import KeyIndex
from dreamprm_jax.runs.locks import take_lock
from dreamprm_jax.schema import DataError, canonical_json
from dreamprm_jax.storage import disk_full_error


class Journal:
    """A persistent map from unit key to JSON value, owned by one process at a time."""

    def __init__(self, path: Path):
        """Opens or creates the journal. Raises DataError if another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.dropped = 0  # number of damaged lines, whose units will be done again
        self._index = KeyIndex()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            take_lock(self._file, path)
        except DataError:
            os.close(self._file)
            raise
        self._end = self._load()
        if self.dropped:
            print(
                f"   {path}: ignored {self.dropped} damaged line(s) (killed process or full disk); their units are "
                "done again",
                file=sys.stderr,
                flush=True,
            )

    def _load(self) -> int:
        offset = 0
        with open(self.path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    self.dropped += 1
                    break
                key = _key(line)
                if key is None:
                    self.dropped += 1
                else:
                    self._index.add(key, offset, len(line))
                offset += len(line)
        os.ftruncate(self._file, offset)
        return offset

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def get(self, key: str) -> Any | None:
        """The committed value of ``key``, or None."""
        span = self._index.find(key)
        if span is None:
            return None
        offset, length = span
        entry = _parse(os.pread(self._file, length, offset))
        if entry is None:
            raise DataError(
                f"{self.path}: the line at byte {offset} changed on disk; remove the file to redo its units"
            )
        return entry[1]

    def put(self, key: str, value: Any) -> bool:
        """Commits a unit's value (any JSON). Returns False and changes nothing if the key is already committed.

        Raises:
          DataError: if the disk is full. Earlier commits are unaffected.
        """
        if key in self._index:
            return False
        body = canonical_json([key, value]).encode("utf-8", "surrogatepass")
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            written = os.write(self._file, line)
            if written != len(line):  # the disk is probably full; the second attempt raises the error
                written += os.write(self._file, line[written:])
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, self._end)  # remove an incomplete line
            raise disk_full_error(self.path, error) or error from error
        self._index.add(key, self._end, len(line))
        self._end += len(line)
        return True

    def close(self) -> None:
        """Flushes to the disk and releases the lock."""
        if self._file >= 0:
            try:
                os.fsync(self._file)
            finally:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _body(line: bytes) -> bytes | None:
    """The line's JSON, or None if the checksum does not match."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    body = line[9:].rstrip(b"\n")
    try:
        return body if int(line[:8], 16) == zlib.crc32(body) else None
    except ValueError:
        return None


def _parse(line: bytes) -> tuple[str, Any] | None:
    body = _body(line)
    if body is None:
        return None
    try:
        key, value = json.loads(body.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return key, value


def _key(line: bytes) -> str | None:
    """The line's key. The value is parsed only if the key contains escapes."""
    body = _body(line)
    if body is None:
        return None
    end = body.find(b'",', 2)
    plain = body[2:end]
    if not body.startswith(b'["') or end < 0 or b"\\" in plain or b'"' in plain:
        entry = _parse(line)
        return None if entry is None else entry[0]
    return plain.decode("utf-8", "surrogatepass")
