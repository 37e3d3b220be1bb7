"""CodeI/O as a source of problems: tasks in the order of the windows, with tests made on demand."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.problems import codeio
from dreamprm_jax.problems.codeio_tests import make_tests
from dreamprm_jax.problems.windows import hash_order
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import Skip, TestedProblem


def load_codeio(config: Config, excluded: frozenset[str], cache: Path | None) -> tuple[list[TestedProblem], list[Skip]]:
    """Returns as many problems as the windows need, or all problems if there are fewer; and the tasks left out.

    In addition to the tasks that ``codeio_tests`` leaves out, tasks whose outputs contain unrounded floats are left
    out: the judge compares with ``==``, so a program that sums in another order would fail.

    Args:
      config: All settings; counts, seed, number of tests and sandbox are used.
      excluded: Problem ids to leave out.
      cache: Folder of the journal of made tests; None for no journal.

    Raises:
      DataError: if the package is missing.
    """
    settings = config.problems
    wanted = settings.train_count + settings.meta_count + settings.test_count
    tasks = sorted(codeio.read_tasks(), key=lambda task: hash_order(task.task_id, config.seed))
    problems: list[TestedProblem] = []
    skips = [
        Skip(codeio.DISTRIBUTION, task.task_id, "left out by problems.exclude")
        for task in tasks
        if task.task_id in excluded
    ]
    tasks = [task for task in tasks if task.task_id not in excluded]
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress("make tests", min(wanted, len(tasks)), "problem"))
        journal = None if cache is None else stack.enter_context(Journal(cache / "codeio_tests.journal"))
        for task, made in make_tests(tasks, settings.made_tests, config.seed, config.sandbox, journal):
            if len(problems) == wanted:
                break
            parameters = codeio.signature(task)
            if made.reason or parameters is None:
                skips.append(Skip(codeio.DISTRIBUTION, task.task_id, made.reason))
            elif not made.rounded:
                reason = "an output contains unrounded floats, which == does not compare reliably"
                skips.append(Skip(codeio.DISTRIBUTION, task.task_id, reason))
            else:
                problems.append(codeio.problem(task, parameters, made.tests))
                progress.add()
    return problems, skips
