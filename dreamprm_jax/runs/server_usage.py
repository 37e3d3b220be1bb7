"""What a policy's server was asked for: requests, tokens, prefix-cache hits. Kept beside the stage's output.

Every process that asks a server appends a line a request to ``usage.jsonl`` in the stage's folder, so that the counts
hold what all workers spent, in all the runs that a stage took: killed ones too.
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
    """Sums over answered requests; tokens as the server counts them."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt tokens, those that the server had in its prefix cache (where it says so)
    completion_tokens: int = 0
    missing_choices: int = 0  # choices that a server left out of an answer and that were asked for again
    rejected_answers: int = 0  # that did not go on with the line break of ``policy.prefix_end``, and were drawn again
    truncated_answers: int = 0  # answers cut short by the token limit (finish_reason "length")
    context_overflows: int = 0  # answers that are missing as the context had no room for them
    declined_answers: int = 0  # empty ones: the model declined, or a filter left nothing
    cut_answers: int = 0  # that the server broke off (an abort, an error, a filter in the middle), and were drawn again
    refused_answers: int = 0  # that are missing as the server refuses the request for good

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def counts(self) -> dict[str, int]:
        """By name, for a stage's counts; the rare ones only where there are any."""
        named = {name.replace("_", " "): count for name, count in dataclasses.asdict(self).items()}
        always = ("requests", "retries", "prompt tokens", "cached tokens", "completion tokens", "truncated answers")
        return {name: count for name, count in named.items() if count or name in always}


class UsageLog:
    """Sums what this process spends, and appends it to the stage's file. Safe to use from several threads."""

    def __init__(self, folder: Path | None):
        self._path = folder / USAGE_FILE if folder else None
        self._lock = threading.Lock()
        self._total = Usage()

    @property
    def total(self) -> Usage:
        """What this process has spent."""
        with self._lock:
            return self._total

    def add(self, usage: Usage) -> None:
        """Counts one request, or what came of it."""
        if usage == Usage():
            return
        with self._lock:
            self._total += usage
            if self._path is not None:
                line = json.dumps(dataclasses.astuple(usage)) + "\n"
                # One write to a file opened for appending: lines of several processes do not mix.
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                try:
                    os.write(file, line.encode("ascii"))
                finally:
                    os.close(file)


def spent(folder: Path) -> dict[str, int]:
    """What all processes have spent for the stage in ``folder``; empty where no server was asked."""
    path = folder / USAGE_FILE
    if not path.exists():
        return {}
    total = Usage()
    for line in path.read_bytes().splitlines():
        try:
            total += Usage(*map(int, json.loads(line)))
        except (ValueError, TypeError):  # cut off by a kill or a full disk
            continue
    return total.counts()
