"""The label stage's work in the engine's workers; each worker has a judge and a policy client."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from dreamprm_jax.config import Config, EngineConfig, SandboxConfig
from dreamprm_jax.engine.executors.protocol import UnitResult
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate, estimate_program
from dreamprm_jax.labeling.rollouts.identity import identity
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import Problem, Program, TestCase, Verdict

_REMEMBERED = 256  # problems whose verdicts a worker caches; the programs of a problem are consecutive

ProgramPayload = tuple[Problem, Program, Verdict]  # the verdict of the program itself


def shares(config: Config) -> tuple[EngineConfig, int, int]:
    """Divides the ``sandbox.workers`` concurrently judged programs among the workers, at least one for each.

    Returns:
      (engine settings with the number of workers, concurrently judged programs per worker, default number of concurrent
      units per worker). The last is 1 without a server; otherwise it gives ``policy.concurrency`` requests in total.
    """
    engine, cores = config.engine, config.sandbox.workers or len(os.sched_getaffinity(0))
    if engine.executor == "local":
        engine = dataclasses.replace(engine, workers=engine.workers or cores)
    children = max(1, cores // engine.workers) if engine.executor == "local" else 1
    if config.policy.kind != "server":
        return engine, children, 1
    return engine, children, math.ceil(config.policy.concurrency / (engine.workers or cores))


@dataclass(frozen=True)
class EstimateFactory:
    """Creates a worker's ``EstimateWork``. On a cluster, every node needs access to the paths.

    Attributes:
      config: Settings of the run.
      compositions: File of compositions for the simulated policy.
      hidden_tests: File of the hidden tests of all problems.
      folder: The stage's folder, to which a server's abilities and usage are written.
      children: Number of programs that a worker's judge runs concurrently.
    """

    config: Config
    compositions: Path
    hidden_tests: Path
    folder: Path
    children: int = 1

    def __call__(self) -> EstimateWork:
        """Starts the judge and opens the client."""
        return EstimateWork(self)


class EstimateWork:
    """Estimates the steps of one program per unit. Threads share the judge, which judges one round at a time."""

    def __init__(self, settings: EstimateFactory) -> None:
        self.config = settings.config
        self._policy = make_policy(self.config.policy, settings.compositions, settings.folder)
        self._judge = RememberingJudge(self.config.sandbox, settings.children)
        self._tests = HiddenTests(settings.hidden_tests)

    def __call__(self, key: str, payload: ProgramPayload) -> UnitResult:
        """Estimates one program, twice if the sandbox failed on some of its rollouts."""
        problem, program, verdict = payload
        how, tests = self.config.label.identical, self._tests.all_of(problem)

        def judge(codes: list[str]) -> list[Verdict]:
            return self._judge(problem, tests, codes, [identity(code, how) for code in codes])

        def estimate() -> ProgramEstimate:
            return estimate_program(
                problem, program, verdict, self.config.label, self.config.seed, self._policy.complete, judge
            )

        result = estimate()
        if result.sandbox_errors:
            result = estimate()
        errors = sum(step.infrastructure_errors for step in result.steps)
        return UnitResult(result.to_json(), {"infrastructure errors": errors})

    def close(self) -> None:
        """Closes the judge and the client."""
        self._judge.close()
        self._policy.close()


class RememberingJudge:
    """A thread-safe judge that caches all verdicts but sandbox errors, by problem and identity."""

    def __init__(self, config: SandboxConfig, children: int) -> None:
        """Starts the judge.

        Args:
          config: Settings of the sandbox, with ``children`` instead of its ``workers``.
          children: Number of concurrently judged programs.
        """
        self.judge = Judge.from_config(dataclasses.replace(config, workers=children))
        self._lock = threading.Lock()
        self._known: OrderedDict[str, dict[str, Verdict]] = OrderedDict()  # by problem, by identity

    def __call__(
        self, problem: Problem, tests: tuple[TestCase, ...], codes: list[str], identities: list[str]
    ) -> list[Verdict]:
        """Verdicts of programs for one problem with all its tests; verdicts of known identities come from the cache."""
        with self._lock:
            known = self._known.setdefault(problem.problem_id, {})
            self._known.move_to_end(problem.problem_id)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            verdicts = {name: known[name] for name in identities if name in known}
            tasks = {
                name: JudgeTask.of(problem, name, code, tests)
                for name, code in zip(identities, codes, strict=True)
                if name not in known
            }
            if tasks:
                fresh = {result.key: result.verdict for result in self.judge.evaluate(tasks.values())}
                known.update((name, v) for name, v in fresh.items() if v is not Verdict.SANDBOX_ERROR)
                verdicts.update(fresh)
            return [verdicts[name] for name in identities]

    def close(self) -> None:
        """Closes the judge."""
        self.judge.close()
