"""The journal of finished work units: append-only, checked line by line, first commit wins.

One line a unit: CRC-32 of the rest, then JSON ``[key, value]``. A line is written in a single ``write`` call, so a
killed process leaves at most one torn line at the end; opening the journal cuts it off. Values stay on disk: memory
holds only the offset of each key.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamprm_jax.schema import DataError, canonical_json


class Journal:
    """A persistent map from unit key to JSON value, owned by one process at a time.

    Raises:
      DataError: when another process holds the journal.
    """

    def __init__(self, path: Path, sync: bool = False):
        """Opens or creates the journal; ``sync`` forces every line to the disk (against power loss, not just kills)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.sync = sync
        self.dropped = 0  # damaged lines, whose units will be done again
        self._index: dict[str, tuple[int, int]] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise DataError(f"{path}: another process is working on this run; wait for it or stop it") from error
        self._end = self._load()

    def _load(self) -> int:
        offset = 0
        with open(self.path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    self.dropped += 1
                    break
                entry = _parse(line)
                if entry is None:
                    self.dropped += 1
                else:
                    self._index.setdefault(entry[0], (offset, len(line)))
                offset += len(line)
        os.ftruncate(self._file, offset)
        return offset

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> Iterator[str]:
        """Keys in the order in which they were committed."""
        return iter(self._index)

    def get(self, key: str) -> Any | None:
        """The committed value of ``key``, or None."""
        if key not in self._index:
            return None
        offset, length = self._index[key]
        entry = _parse(os.pread(self._file, length, offset))
        if entry is None:
            raise DataError(f"{self.path}: the line of unit {key} changed on disk; remove the file to redo its units")
        return entry[1]

    def put(self, key: str, value: Any) -> bool:
        """Commits a unit's value (any JSON). Returns False, changing nothing, where the key is committed already."""
        if key in self._index:
            return False
        body = canonical_json([key, value]).encode("utf-8", "surrogatepass")
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        written = os.write(self._file, line)
        if written != len(line):  # a full disk: take the torn line back, so that the journal stays whole
            os.ftruncate(self._file, self._end)
            raise OSError(f"{self.path}: disk full; free some space and run the same command again")
        if self.sync:
            os.fsync(self._file)
        self._index[key] = (self._end, len(line))
        self._end += len(line)
        return True

    def close(self) -> None:
        """Flushes to the disk and lets other processes have the journal."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _parse(line: bytes) -> tuple[str, Any] | None:
    if len(line) < 10 or line[8:9] != b" ":
        return None
    body = line[9:].rstrip(b"\n")
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        key, value = json.loads(body.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return key, value
