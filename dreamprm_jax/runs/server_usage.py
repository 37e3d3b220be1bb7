"""Usage of a policy's server: requests, tokens and prefix-cache hits, stored in the stage's folder.

Every process that queries a server appends one line per request to ``usage.jsonl``. The counts therefore cover all
workers in all runs of a stage, including killed runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

USAGE_FILE = "usage.jsonl"


@dataclass(frozen=True)
class Usage:
    """Sums over answered requests. Token counts are those reported by the server."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens from the server's prefix cache, if the server reports them
    completion_tokens: int = 0
    missing_choices: int = 0  # choices missing in an answer; they were requested again
    rejected_answers: int = 0  # answers that do not continue the prefix (``policy.prefix_end``); sampled again
    truncated_answers: int = 0  # cut at the token limit (finish_reason "length")
    context_overflows: int = 0  # missing answers: the prompt did not fit into the context
    declined_answers: int = 0  # empty answers: the model declined, or a content filter removed everything
    cut_answers: int = 0  # answers interrupted by the server (an abort, an error, a content filter); sampled again
    refused_answers: int = 0  # missing answers: the server rejects the request permanently

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def counts(self) -> dict[str, int]:
        """Counts by name, for a stage's counts. Rare ones are included only if nonzero."""
        named = {name.replace("_", " "): count for name, count in dataclasses.asdict(self).items()}
        always = ("requests", "retries", "prompt tokens", "cached tokens", "completion tokens", "truncated answers")
        return {name: count for name, count in named.items() if count or name in always}


class UsageLog:
    """Sums the usage of this process and appends it to the stage's file. Thread-safe."""

    def __init__(self, folder: Path | None):
        self._path = folder / USAGE_FILE if folder else None
        self._lock = threading.Lock()
        self._total = Usage()

    @property
    def total(self) -> Usage:
        """Usage of this process so far."""
        with self._lock:
            return self._total

    def add(self, usage: Usage) -> None:
        """Adds the usage of one request or answer."""
        if usage == Usage():
            return
        with self._lock:
            self._total += usage
            if self._path is not None:
                line = json.dumps(dataclasses.astuple(usage)) + "\n"
                # Each line is a single write to a file opened for appending, so lines of processes do not mix.
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                try:
                    os.write(file, line.encode("ascii"))
                finally:
                    os.close(file)


def spent(folder: Path) -> dict[str, int]:
    """Usage of all processes for the stage in ``folder``; empty if no server was queried."""
    path = folder / USAGE_FILE
    if not path.exists():
        return {}
    total = Usage()
    for line in path.read_bytes().splitlines():
        try:
            total += Usage(*map(int, json.loads(line)))
        except (ValueError, TypeError):  # truncated by a killed process or a full disk
            continue
    return total.counts()
