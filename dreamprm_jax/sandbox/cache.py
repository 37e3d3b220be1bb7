"""Caches verdicts on disk by content: the same program, tests, mode and limits are not run twice.

The cache is one SQLite file in the given folder, which several judges in several processes may share. It holds only
verdicts that do not depend on chance or on the machine's load: labels, except exceeded time limits.
"""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from dreamprm_jax.sandbox.records import JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import DataError, Verdict, content_hash

_VERSION = 7  # incremented by changes of the judge that can change a verdict
_BUSY_SECONDS = 60.0


def task_digest(task: JudgeTask, mode: str, tier: str, limits: Limits, packages: Sequence[str] = ()) -> str:
    """Hash of everything that a verdict depends on, without the task's key.

    Args:
      task: The program and its tests.
      mode: ``faithful`` or ``lcb``.
      tier: The tier of the judge.
      limits: Limits of one test, including the problem's own.
      packages: The third-party packages that the program may import, with their versions.

    Returns:
      64 hexadecimal digits.
    """
    settings = [
        _VERSION, mode, tier, limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, limits.output_bytes,
        platform.python_version(), platform.machine(), task.checker_name,
        "" if task.comparison is None else task.comparison.digest, *packages,
    ]  # fmt: skip
    tests = [part for test in task.tests for part in (test.testtype, test.input, test.output)]
    return content_hash(json.dumps(settings), task.func_name or "", task.code, *tests, digits=64)


class VerdictCache:
    """The file of verdicts."""

    def __init__(self, folder: Path) -> None:
        """Opens or creates the file in the folder.

        Raises:
          DataError: if the file cannot be opened or is not a cache of verdicts.
        """
        self._path = folder / "verdicts.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (digest TEXT PRIMARY KEY, verdict TEXT NOT NULL,"
                " passed INTEGER NOT NULL, total INTEGER NOT NULL, error TEXT NOT NULL, cpu REAL NOT NULL,"
                " codes TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{self._path}: not usable as a cache of verdicts ({error}); remove it") from error

    def get(self, digest: str, task: JudgeTask, mode: str, tier: str) -> JudgeResult | None:
        """The cached verdict as the result of this task, or None."""
        row = self._database.execute(
            "SELECT verdict, passed, total, error, cpu, codes FROM verdicts WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            return None
        verdict, passed, total, error, cpu, codes = row
        return JudgeResult(task.key, Verdict(verdict), passed, total, error, cpu, mode, tier, tuple(json.loads(codes)))

    def put(self, digest: str, result: JudgeResult) -> None:
        """Caches a result if its verdict depends neither on chance nor on the machine's load."""
        if not result.verdict.is_label or result.verdict is Verdict.TLE:
            return
        self._database.execute(
            "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                digest, result.verdict.value, result.tests_passed, result.tests_total, result.error,
                result.cpu_seconds, json.dumps(result.codes),
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Closes the file."""
        self._database.close()
