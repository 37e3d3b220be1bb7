"""The loop that judges programs into a journal: resumable, one result a program, the sandbox's own faults not kept."""

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
    """Judges the tasks that the journal does not have, and commits the value of each result as it comes.

    Args:
      journal: one entry a task.
      judge: the judge, or a function that starts one, which is called only if there is something to judge and whose
        judge is closed at the end.
      tasks: consumed lazily, so that tests may be read from disk as they are needed. The key of each, which comes once,
        names everything that its verdict depends on.
      value: from a result to what is stored: any JSON.
      planned: the number of tasks, those in the journal included; for progress.
      done: the number of tasks that are in the journal.
      description: of the progress bar.
      visible: False where the caller shows progress of its own.

    Returns:
      Task key -> value, of the tasks on which the sandbox itself failed. They are not committed, so that the next run
      judges them again.
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
    """The fields of ``schema.Outcome`` after the program's: what a journal keeps of a verdict."""
    return [
        result.verdict.value,
        result.tests_passed,
        result.tests_total,
        result.error,
        result.cpu_seconds,
        result.mode,
        result.tier,
    ]
