"""Monte-Carlo estimation of one program's steps: the unit of work of the label stage.

Complete a prefix K times, run the unit tests, count: Math-Shepherd (arXiv 2312.08935) and DreamPRM-Code (arXiv
2512.15000, section 3.2), with functions as steps. The last step is not rolled out: its label is the program's own
outcome, known exactly.

``estimation`` is the algorithm, a generator that asks for completions in rounds and is sent them judged. Whoever
drives it owns the policy and the judge: ``estimate_program`` does it for one program with blocking calls,
``rollouts.roll_out`` for many at once. Both give the same estimate: it depends on the program, the settings and the
seed alone.

Reuse. A rollout of step i whose text begins with the prefix of a later step j of the same program counts for j too. A
policy that samples token by token continues a text in the same way whether it was given or has just been written, so
given that it passed through prefix j, its verdict is a draw of the very distribution that rollouts of j have: the
estimate stays unbiased, whatever the number of rollouts that happen to come by. It needs the same temperature and
prompt (so rollouts that were shown the prefix and not forced to continue it do not count), and tokens that break at
the step's end (a line's end) both times. One rollout then counts at several steps: their estimates are no longer
independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.identity import identity, prefixes_passed
from dreamprm_jax.labeling.strategies import rounds
from dreamprm_jax.policy.protocol import Completion, CompletionRequest
from dreamprm_jax.policy.stage import request_seed
from dreamprm_jax.schema import Problem, Program, Verdict

Judged = tuple[Completion, Verdict]
Estimation = Generator[list[CompletionRequest], list[list[Judged]], "ProgramEstimate"]


@dataclass
class StepTally:
    """What is known of one prefix.

    Attributes:
      asked: rollouts that the policy was asked for at this prefix.
      passes: judged rollouts that passed all tests, the borrowed ones included.
      failures: those that did not.
      borrowed: of the judged rollouts, those of earlier prefixes that passed through this one.
      borrowed_passes: of these, those that passed all tests.
      infrastructure_errors: rollouts of this prefix without a label: the sandbox or the task was at fault.
      sandbox_errors: of these, those that judging again may mend.
      unforced: rollouts of this prefix that the policy was not made to begin with it.
      judged: programs of this prefix's rollouts that no earlier one of this estimate had been equal to.
      seed: of the first request.
    """

    asked: int = 0
    passes: int = 0
    failures: int = 0
    borrowed: int = 0
    borrowed_passes: int = 0
    infrastructure_errors: int = 0
    sandbox_errors: int = 0
    unforced: int = 0
    judged: int = 0
    seed: int = 0


@dataclass(frozen=True)
class ProgramEstimate:
    """The tallies of every step of a program but the last."""

    steps: tuple[StepTally, ...]
    rounds: int  # how often the policy was asked

    @property
    def asked(self) -> int:
        """All rollouts."""
        return sum(step.asked for step in self.steps)

    @property
    def judged(self) -> int:
        """Distinct programs among them, other than the program itself."""
        return sum(step.judged for step in self.steps)

    @property
    def sandbox_errors(self) -> int:
        """Rollouts that judging again may give a label."""
        return sum(step.sandbox_errors for step in self.steps)

    def to_json(self) -> list[Any]:
        """Plain values."""
        return [self.rounds, *(list(dataclasses.astuple(step)) for step in self.steps)]

    @classmethod
    def from_json(cls, value: list[Any]) -> ProgramEstimate:
        """Reads back what ``to_json`` gave."""
        return cls(tuple(StepTally(*row) for row in value[1:]), value[0])


def estimation(problem: Problem, program: Program, verdict: Verdict, settings: LabelConfig, seed: int) -> Estimation:
    """Yields rounds of requests, is sent the judged completions of each, returns the estimate.

    Args:
      problem: what the program solves.
      program: the program whose steps are estimated.
      verdict: the judge's on the program itself.
      settings: strategy, budget, reuse.
      seed: of the run; each request's seed derives from it, the program, the step and the rollouts asked before.

    Raises:
      DataError: on settings that contradict each other.
    """
    prefixes = [program.code[: step.end] for step in split_steps(program.code, settings.granularity)[:-1]]
    tallies = [StepTally() for _ in prefixes]
    seen = {identity(program.code, settings.identical)}
    if settings.count_program and verdict.is_label:
        for tally in tallies:
            _count(tally, verdict, borrowed=True)
    asked = 0
    for planned in rounds(settings, tallies, verdict):
        requests = []
        for step, count in planned:
            key = f"{program.program_hash}/{step}" + (f"/{tallies[step].asked}" if tallies[step].asked else "")
            request = CompletionRequest(
                problem, prefixes[step], count, settings.temperature, request_seed(seed, "rollouts", key)
            )
            if not tallies[step].asked:
                tallies[step].seed = request.seed
            requests.append(request)
        asked += 1
        answers = yield requests
        for (step, _), answer in zip(planned, answers, strict=True):
            _add(tallies, step, answer, prefixes, settings, seen)
    return ProgramEstimate(tuple(tallies), asked)


def _add(
    tallies: Sequence[StepTally],
    step: int,
    answer: Sequence[Judged],
    prefixes: Sequence[str],
    settings: LabelConfig,
    seen: set[str],
) -> None:
    """Counts the rollouts of one request where they inform."""
    own = tallies[step]
    own.asked += len(answer)
    for completion, verdict in answer:
        own.unforced += not completion.forced
        same = identity(completion.code, settings.identical)
        own.judged += same not in seen
        seen.add(same)
        if not verdict.is_label:
            own.infrastructure_errors += 1
            own.sandbox_errors += verdict is Verdict.SANDBOX_ERROR
            continue
        _count(own, verdict, borrowed=False)
        if settings.reuse != "none" and completion.forced:
            later = prefixes[step + 1 :]
            for other in tallies[step + 1 : step + 1 + prefixes_passed(completion.code, later, settings.reuse)]:
                _count(other, verdict, borrowed=True)


def _count(tally: StepTally, verdict: Verdict, borrowed: bool) -> None:
    passed = verdict is Verdict.AC
    tally.passes += passed
    tally.failures += not passed
    tally.borrowed += borrowed
    tally.borrowed_passes += borrowed and passed


def estimate_program(
    problem: Problem,
    program: Program,
    verdict_of_program: Verdict,
    settings: LabelConfig,
    seed: int,
    complete: Callable[[CompletionRequest], list[Completion]],
    judge: Callable[[list[str]], list[Verdict]],
) -> ProgramEstimate:
    """Estimates the steps of one program with blocking calls.

    Args:
      problem: what the program solves.
      program: the program.
      verdict_of_program: so that completions equal to the program need no judging.
      settings: ``Config.label``.
      seed: ``Config.seed``.
      complete: the policy's; what it raises passes through, and nothing is counted.
      judge: verdicts of programs for this problem, in their order; it is given only programs that differ.

    Returns:
      The estimate; the same for the same program, settings and seed, wherever and whenever it is made, as far as policy
      and judge are. With ``sandbox_errors`` it is worth making again.
    """
    known = {identity(program.code, settings.identical): verdict_of_program} if verdict_of_program.is_label else {}
    work = estimation(problem, program, verdict_of_program, settings, seed)
    state = advance(work, None)
    while isinstance(state, list):
        answers = [complete(request) for request in state]
        keys = [[identity(completion.code, settings.identical) for completion in answer] for answer in answers]
        fresh = {
            key: completion.code
            for row, answer in zip(keys, answers, strict=True)
            for key, completion in zip(row, answer, strict=True)
            if key not in known
        }
        known.update(zip(fresh, judge(list(fresh.values())) if fresh else [], strict=True))
        state = advance(
            work,
            [
                [(completion, known[key]) for key, completion in zip(row, answer, strict=True)]
                for row, answer in zip(keys, answers, strict=True)
            ],
        )
    return state


def advance(work: Estimation, answers: list[list[Judged]] | None) -> list[CompletionRequest] | ProgramEstimate:
    """Sends the answers of a round (None at the start): the requests of the next one, or the finished estimate."""
    try:
        return next(work) if answers is None else work.send(answers)
    except StopIteration as stop:
        return stop.value
