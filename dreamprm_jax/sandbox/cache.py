"""Verdicts kept on disk by content: the same program, tests, mode and limits are not run twice.

One SQLite file in the given folder. Several judges, in several processes, may share it. What is kept is what does not
depend on chance or on the machine's load: labels only, and no time limit exceeded.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from dreamprm_jax.sandbox.records import JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import DataError, Verdict

_VERSION = 7  # counts changes of the judge that can change a verdict
_BUSY_SECONDS = 60.0


def task_digest(task: JudgeTask, mode: str, tier: str, limits: Limits, packages: Sequence[str] = ()) -> str:
    """Identifies everything that a verdict depends on. The task's key is not part of it.

    Args:
      task: the program and its tests.
      mode: ``faithful`` or ``lcb``.
      tier: the tier that holds.
      limits: of one test, the problem's own among them.
      packages: the third-party packages that the program may import, with their versions.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()

    def add(text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    add(
        json.dumps(
            [
                _VERSION, mode, tier, limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes,
                limits.output_bytes, platform.python_version(), platform.machine(), task.checker_name,
                "" if task.comparison is None else task.comparison.digest, *packages,
            ]
        )
    )  # fmt: skip
    add(task.func_name or "")
    add(task.code)
    for test in task.tests:
        add(test.testtype)
        add(test.input)
        add(test.output)
    return digest.hexdigest()


class VerdictCache:
    """The file of verdicts."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder's file, or makes it.

        Raises:
          DataError: if the file cannot be opened or is no such file.
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
        """The kept verdict, as the result of this task."""
        row = self._database.execute(
            "SELECT verdict, passed, total, error, cpu, codes FROM verdicts WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            return None
        verdict, passed, total, error, cpu, codes = row
        return JudgeResult(task.key, Verdict(verdict), passed, total, error, cpu, mode, tier, tuple(json.loads(codes)))

    def put(self, digest: str, result: JudgeResult) -> None:
        """Keeps a result if it may be kept."""
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
