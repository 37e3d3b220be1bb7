"""CodeI/O as a source of problems: tasks in the windows' order, with tests made as they are needed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.problems import codeio
from dreamprm_jax.problems.codeio_tests import MIN_DISTINCT, make_tests
from dreamprm_jax.problems.windows import hash_order
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError, Skip, TestedProblem


def load_codeio(config: Config, excluded: frozenset[str], cache: Path | None) -> tuple[list[TestedProblem], list[Skip]]:
    """As many problems as the windows want, or all that there are.

    Beyond what ``codeio_tests`` leaves out, so are tasks whose outputs hold floats that are not rounded: the judge
    compares by ``==``, and a program that sums in another order would fail.

    Args:
      config: counts, seed, number of tests, sandbox.
      excluded: problem ids to leave out.
      cache: folder of the journal of made tests; None keeps none.

    Raises:
      DataError: where the package is missing, or fewer tests are asked for than outputs must differ.
    """
    settings = config.problems
    if settings.made_tests < MIN_DISTINCT:
        raise DataError(f"problems.made_tests is {settings.made_tests}; it must be {MIN_DISTINCT} or more")
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
                reason = "an output holds floats that are not rounded, which == cannot compare fairly"
                skips.append(Skip(codeio.DISTRIBUTION, task.task_id, reason))
            else:
                problems.append(codeio.problem(task, parameters, made.tests))
                progress.add()
    return problems, skips
