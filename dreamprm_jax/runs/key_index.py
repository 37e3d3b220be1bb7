"""Where each key's line lies in the journal: 28 bytes a key, so that a hundred million units fit into a driver.

Keys are held as 128-bit digests in sorted arrays; what came lately waits in a dict, and is merged in when it has grown
to a sixteenth of the whole, which keeps the cost of an insertion constant on average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

_DIGEST_BYTES = 16  # two of 10^9 keys are equal with a chance of 10^-21
_RECENT = 4096  # keys, the least that is merged at once
_MERGED = np.dtype([("digest", f"S{_DIGEST_BYTES}"), ("offset", "<u8"), ("length", "<u4")])


class KeyIndex:
    """A map from key to (offset, length in bytes)."""

    def __init__(self) -> None:
        self._digests = np.empty(0, _MERGED["digest"])
        self._offsets = np.empty(0, _MERGED["offset"])
        self._lengths = np.empty(0, _MERGED["length"])
        self._recent: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._digests) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    def find(self, key: str) -> tuple[int, int] | None:
        """Offset and length of the key's line, or None."""
        digest = _digest(key)
        recent = self._recent.get(digest)
        if recent is not None or not len(self._digests):
            return recent
        row = int(np.searchsorted(self._digests, np.bytes_(digest)))
        if row == len(self._digests) or self._digests[row] != digest:
            return None
        return int(self._offsets[row]), int(self._lengths[row])

    def add(self, key: str, offset: int, length: int) -> bool:
        """Adds a key; False, changing nothing, where it is there already."""
        if key in self:
            return False
        self._recent[_digest(key)] = (offset, length)
        if len(self._recent) > max(_RECENT, len(self._digests) // 16):
            self._merge()
        return True

    def spans(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of every key, by offset."""
        self._merge()
        for row in np.argsort(self._offsets):
            yield int(self._offsets[row]), int(self._lengths[row])

    def _merge(self) -> None:
        if not self._recent:
            return
        rows = sorted((digest, *span) for digest, span in self._recent.items())
        fresh = np.array(rows, _MERGED)
        places = np.searchsorted(self._digests, fresh["digest"])
        self._digests = np.insert(self._digests, places, fresh["digest"])
        self._offsets = np.insert(self._offsets, places, fresh["offset"])
        self._lengths = np.insert(self._lengths, places, fresh["length"])
        self._recent = {}


def _digest(key: str) -> bytes:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return digest.rstrip(b"\0")  # numpy drops them from fixed-width bytes
