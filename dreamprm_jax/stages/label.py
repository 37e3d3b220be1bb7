"""The label stage: the outcome of every program, and Monte-Carlo labels of the train programs' steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.labeling.outcomes import judge_window
from dreamprm_jax.labeling.rollouts.run import PrefixRollouts
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.source import WINDOWS
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.server_usage import spent
from dreamprm_jax.sandbox import Judge
from dreamprm_jax.schema import Problem, StepLabel
from dreamprm_jax.storage import iterate_records, write_records


def label(config: Config, paths: Paths) -> dict[str, int]:
    """Judges all programs, rolls out the train window's prefixes, writes outcomes, step labels and the exact truth.

    Returns:
      Counts: programs by verdict, steps, rollouts, programs run, infrastructure errors, tokens.

    Raises:
      DataError: if the policy or the sandbox failed on some programs; running again repeats only those.
    """
    counts: Counter[str] = Counter()
    tests = HiddenTests(paths.hidden_tests())

    with Judge.from_config(config.sandbox) as judge:
        problems = (problem for window in WINDOWS for problem in iterate_records(paths.problems(window), Problem))
        judge.limits.check_references(problems, "this run")
        for window in WINDOWS:
            counts.update(judge_window(config, paths, window, tests, judge))

    if why_no_truth(config) is None:
        for window in WINDOWS:
            load_truth(config, paths, window)

    with Journal(paths.stage("label") / "rollouts.journal") as journal:
        rollouts = PrefixRollouts(config, paths, tests, journal)
        rollouts.run()
        counts["step labels"] = write_records(paths.step_labels(), StepLabel, _counted(rollouts.rows(), counts))
    return {**counts, **spent(paths.stage("label"))}


def _counted(rows: Iterable[StepLabel], counts: Counter[str]) -> Iterator[StepLabel]:
    for row in rows:
        counts["steps without rollouts"] += not row.rollouts
        counts["rollouts"] += row.asked
        counts["borrowed"] += row.borrowed
        counts["distinct programs among the rollouts"] += row.judged
        counts["left unjudged"] += row.unjudged
        counts["infrastructure errors"] += row.infrastructure_errors
        yield row
