"""Judges programs and commits the results to a journal. It can be resumed; sandbox failures are not committed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import JudgeResult, JudgeTask
from dreamprm_jax.schema import Verdict


def judge_into(
    journal: Journal,
    judge: Callable[[], Judge] | Judge,
    tasks: Iterable[JudgeTask],
    value: Callable[[JudgeResult], Any],
    *,
    planned: int,
    done: int,
    description: str,
    visible: bool = True,
) -> dict[str, Any]:
    """Judges the tasks that are not in the journal, and commits the value of each result as it arrives.

    Args:
      journal: Holds one entry per task.
      judge: The judge, or a function that starts one. The function is called only if there is something to judge; its
        judge is closed at the end.
      tasks: Consumed lazily, so that tests can be read from disk on demand. Keys must be unique and identify everything
        that the verdict depends on.
      value: Maps a result to the value to commit, any JSON.
      planned: Number of tasks, including those in the journal; for progress.
      done: Number of tasks in the journal.
      description: Description in the progress bar.
      visible: False if the caller shows progress itself.

    Returns:
      Task key -> value, of the tasks on which the sandbox itself failed. They are not committed, so the next run judges
      them again.
    """
    missing = (task for task in tasks if task.key not in journal)
    first = next(missing, None)
    failed: dict[str, Any] = {}
    with Progress(description, planned, "program", done, journal.path, visible) as progress:
        if first is None:
            return failed
        running = judge if isinstance(judge, Judge) else judge()
        try:
            for result in running.evaluate(itertools.chain([first], missing)):
                if result.verdict is Verdict.SANDBOX_ERROR:
                    failed[result.key] = value(result)
                    progress.add(result.key, failure=result.error)
                else:
                    journal.put(result.key, value(result))
                    progress.add(result.key)
        finally:
            if running is not judge:
                running.close()
    return failed


def outcome_values(result: JudgeResult) -> list[Any]:
    """The fields of ``schema.Outcome`` after the program hash, as stored in a journal."""
    return [
        result.verdict.value,
        result.tests_passed,
        result.tests_total,
        result.error,
        result.cpu_seconds,
        result.mode,
        result.tier,
    ]
