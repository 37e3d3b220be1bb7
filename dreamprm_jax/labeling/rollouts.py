"""Monte-Carlo estimation: complete a prefix K times, run the unit tests, count.

Math-Shepherd (arXiv 2312.08935) and DreamPRM-Code (arXiv 2512.15000, section 3.2), with functions as steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config
from dreamprm_jax.engine.ordered import ordered_map
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, Policy, PolicyError
from dreamprm_jax.policy.stage import request_seed
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import Granularity, Problem, Program, Step, Verdict, program_hash


@dataclass(frozen=True)
class PrefixUnit:
    """One unit of work: the rollouts of one step of one program."""

    problem: Problem
    program: Program
    step: Step

    @property
    def key(self) -> str:
        """The unit's name in the journal."""
        return f"{self.program.program_hash}/{self.step.index}"

    @property
    def prefix(self) -> str:
        """The program up to and including the step."""
        return self.program.code[: self.step.end]


@dataclass(frozen=True)
class Tally:
    """What the rollouts of one prefix came to."""

    passes: int
    failures: int
    infrastructure_errors: int
    unforced: int  # completions that the policy was not made to begin with the prefix
    judged: int  # distinct programs that had to be run


def prefix_units(
    problems: dict[str, Problem], programs: Iterable[Program], granularity: Granularity = "function"
) -> Iterator[PrefixUnit]:
    """Every step but the last of every program: the last step's label is the program's own outcome, known exactly."""
    for program in programs:
        for step in split_steps(program.code, granularity)[:-1]:
            yield PrefixUnit(problems[program.problem_id], program, step)


def judge_task(problem: Problem, code: str) -> JudgeTask:
    """The task of running one program on all tests of its problem."""
    return JudgeTask(program_hash(problem.problem_id, code), code, problem.tests, problem.func_name)


def roll_out(
    config: Config, units: Iterable[PrefixUnit], policy: Policy, judge: Judge, verdicts: dict[str, Verdict]
) -> Iterator[tuple[PrefixUnit, Tally | PolicyError]]:
    """Completes each unit's prefix ``config.label.rollouts`` times and judges the completions.

    Completions are asked for ahead of the judge, and programs stream through it; a text that was judged before (in
    ``verdicts``, by program hash, which this fills) is not run again.

    Yields:
      Each unit, in order, with its tally, or with the policy's error.
    """

    def complete(unit: PrefixUnit) -> list[Completion] | PolicyError:
        seed = request_seed(config.seed, "rollouts", unit.key)
        request = CompletionRequest(unit.problem, unit.prefix, config.label.rollouts, config.label.temperature, seed)
        try:
            return policy.complete(request)
        except PolicyError as error:
            return error

    waiting: deque[tuple[PrefixUnit, list[Completion] | PolicyError, int]] = deque()
    in_flight: set[str] = set()

    def tasks() -> Iterator[JudgeTask]:
        for unit, answer in ordered_map(complete, units, config.policy.concurrency):
            if isinstance(answer, PolicyError):
                waiting.append((unit, answer, 0))
                continue
            fresh = {}
            for completion in answer:
                task = judge_task(unit.problem, completion.code)
                if task.key not in verdicts and task.key not in in_flight:
                    fresh[task.key] = task
            in_flight.update(fresh)
            waiting.append((unit, answer, len(fresh)))
            yield from fresh.values()

    def finished() -> Iterator[tuple[PrefixUnit, Tally | PolicyError]]:
        while waiting:
            unit, answer, judged = waiting[0]
            if isinstance(answer, PolicyError):
                waiting.popleft()
                yield unit, answer
                continue
            keys = [program_hash(unit.problem.problem_id, completion.code) for completion in answer]
            if not all(key in verdicts for key in keys):
                return
            waiting.popleft()
            unforced = sum(not completion.forced for completion in answer)
            yield unit, _tally([verdicts[key] for key in keys], unforced, judged)

    for result in judge.evaluate(tasks()):
        verdicts[result.key] = result.verdict
        in_flight.discard(result.key)
        yield from finished()
    yield from finished()


def _tally(verdicts: list[Verdict], unforced: int, judged: int) -> Tally:
    labels = [verdict for verdict in verdicts if verdict.is_label]
    passes = sum(verdict is Verdict.AC for verdict in labels)
    return Tally(passes, len(labels) - passes, len(verdicts) - len(labels), unforced, judged)
