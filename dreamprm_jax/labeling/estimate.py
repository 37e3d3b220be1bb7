"""Monte-Carlo estimation of one program's steps: the unit of work of the label stage.

Complete a prefix K times, run the unit tests, count: Math-Shepherd (arXiv 2312.08935) and DreamPRM-Code (arXiv
2512.15000, section 3.2), with functions as steps. The last step is not rolled out: its label is the program's own
outcome, known exactly.

``estimation`` is the algorithm, a generator that asks for completions, then for verdicts, in rounds;
``estimate_program`` drives it with a worker's policy and judge. The estimate depends on the program, the settings and
the seed alone, not on who makes it, when, or in which order.

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
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.identity import identity, prefixes_passed
from dreamprm_jax.labeling.strategies import rounds
from dreamprm_jax.policy.protocol import Completion, CompletionRequest
from dreamprm_jax.policy.stage import request_seed
from dreamprm_jax.schema import DataError, Problem, Program, Verdict, content_hash

# Requests for completions, answered with those; or programs to judge, by identity, answered with verdicts.
Wanted = list[CompletionRequest] | dict[str, str]
Answer = list[list[Completion]] | dict[str, Verdict]
Estimation = Generator[Wanted, Any, "ProgramEstimate"]


@dataclass
class StepTally:
    """What is known of one prefix.

    Attributes:
      asked: rollouts that the policy was asked for at this prefix.
      passes: judged rollouts that passed all tests, the borrowed ones included.
      failures: those that did not.
      borrowed: of the judged rollouts, those of earlier prefixes that passed through this one.
      borrowed_passes: of these, those that passed all tests.
      infrastructure_errors: rollouts of this prefix without a label: sandbox, task or the policy's server was at fault.
      sandbox_errors: of these, those that judging again may mend.
      unforced: rollouts of this prefix that the policy was not made to begin with it.
      judged: programs of this prefix's rollouts that the judge was given: each once, with the first that wrote it.
      unjudged: rollouts, borrowed ones included, that were left without a verdict: see ``LabelConfig.judge_share``.
      singles: of the judged rollouts, those whose program no other rollout wrote.
      single_passes: of these, those that passed all tests.
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
    unjudged: int = 0
    singles: int = 0
    single_passes: int = 0
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


@dataclass(frozen=True)
class _Rollout:
    """One completion of a prefix."""

    step: int  # whose prefix
    later: int  # later prefixes that it passes through
    same: str  # its identity
    forced: bool
    fault: str  # why the policy gave no answer


def estimation(problem: Problem, program: Program, verdict: Verdict, settings: LabelConfig, seed: int) -> Estimation:
    """The algorithm. Yields what it wants next, is sent it, returns the estimate.

    Args:
      problem: what the program solves.
      program: the program whose steps are estimated.
      verdict: the judge's on the program itself.
      settings: strategy, budget, reuse.
      seed: of the run; each request's seed derives from it, the program, the step and the rollouts asked before.

    Raises:
      DataError: on settings that contradict each other.
    """
    if not 0.0 < settings.judge_share <= 1.0 or (settings.judge_share < 1.0 and settings.strategy != "fixed"):
        raise DataError(
            f"config.label.judge_share={settings.judge_share} must be above 0 and at most 1, and 1 with "
            f"config.label.strategy={settings.strategy!r}, unless that is 'fixed': the others look at every verdict"
        )
    prefixes = [program.code[: step.end] for step in split_steps(program.code, settings.granularity)[:-1]]
    verdicts = {identity(program.code, settings.identical): verdict} if verdict.is_label else {}
    own = set(verdicts)
    extra = verdict if settings.count_program and verdict.is_label else None
    rollouts: list[_Rollout] = []
    seeds: dict[int, int] = {}
    tallies = _tallies(len(prefixes), rollouts, verdicts, own, seeds, extra)
    asked = 0
    for planned in rounds(settings, tallies, verdict):
        requests = []
        for step, count in planned:
            key = f"{program.program_hash}/{step}" + (f"/{tallies[step].asked}" if tallies[step].asked else "")
            request_number = request_seed(seed, "rollouts", key)
            seeds.setdefault(step, request_number)
            requests.append(CompletionRequest(problem, prefixes[step], count, settings.temperature, request_number))
        asked += 1
        answers: list[list[Completion]] = yield requests
        codes: dict[str, str] = {}
        for (step, _), answer in zip(planned, answers, strict=True):
            for completion in answer:
                same = identity(completion.code, settings.identical)
                later = 0
                if not completion.fault:
                    codes.setdefault(same, completion.code)
                if settings.reuse != "none" and completion.forced and not completion.fault:
                    later = prefixes_passed(completion.code, prefixes[step + 1 :], settings.reuse)
                rollouts.append(_Rollout(step, later, same, completion.forced, completion.fault))
        fresh = {same: code for same, code in codes.items() if same not in verdicts}
        if settings.judge_share < 1.0:
            often = Counter(rollout.same for rollout in rollouts if not rollout.fault)
            place = f"{seed}/{program.program_hash}"
            fresh = {s: c for s, c in fresh.items() if often[s] > 1 or _share(place, s) < settings.judge_share}
        if fresh:
            verdicts.update((yield fresh))
        tallies[:] = _tallies(len(prefixes), rollouts, verdicts, own, seeds, extra)
    return ProgramEstimate(tuple(tallies), asked)


def _share(place: str, same: str) -> float:
    """A number in [0, 1) that depends on the program alone, not on its verdict."""
    return int(content_hash(place, same, digits=8), 16) / 16**8


def _tallies(
    count: int,
    rollouts: Sequence[_Rollout],
    verdicts: Mapping[str, Verdict],
    own: Set[str],
    seeds: Mapping[int, int],
    extra: Verdict | None,
) -> list[StepTally]:
    """Counts every rollout where it informs; ``extra`` is the program's own verdict, where it counts as a rollout."""
    tallies = [StepTally(seed=seeds.get(step, 0)) for step in range(count)]
    often = Counter(rollout.same for rollout in rollouts if not rollout.fault)
    charged = set(own)
    for tally in tallies if extra is not None else ():
        _count(tally, extra is Verdict.AC, borrowed=True, single=False)
    for rollout in rollouts:
        tally, verdict = tallies[rollout.step], verdicts.get(rollout.same)
        tally.asked += 1
        tally.unforced += not rollout.forced
        if rollout.fault:
            tally.infrastructure_errors += 1
            continue
        informs = tallies[rollout.step : rollout.step + rollout.later + 1]
        if verdict is None:
            for informed in informs:
                informed.unjudged += 1
            continue
        tally.judged += rollout.same not in charged
        charged.add(rollout.same)
        if not verdict.is_label:
            tally.infrastructure_errors += 1
            tally.sandbox_errors += verdict is Verdict.SANDBOX_ERROR
            continue
        single = often[rollout.same] == 1 and rollout.same not in own
        for informed in informs:
            _count(informed, verdict is Verdict.AC, informed is not tally, single)
    return tallies


def _count(tally: StepTally, passed: bool, borrowed: bool, single: bool) -> None:
    tally.passes += passed
    tally.failures += not passed
    tally.borrowed += borrowed
    tally.borrowed_passes += borrowed and passed
    tally.singles += single
    tally.single_passes += single and passed


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
    work = estimation(problem, program, verdict_of_program, settings, seed)
    state = advance(work, None)
    while not isinstance(state, ProgramEstimate):
        if isinstance(state, list):
            state = advance(work, [complete(request) for request in state])
        else:
            state = advance(work, dict(zip(state, judge(list(state.values())), strict=True)))
    return state


def advance(work: Estimation, answer: Answer | None) -> Wanted | ProgramEstimate:
    """Sends what was wanted (None at the start): what is wanted next, or the finished estimate."""
    try:
        return work.send(answer)
    except StopIteration as stop:
        return stop.value
