"""Monte-Carlo estimation of one program's steps: the unit of work of the label stage.

Each prefix is completed K times, and the completions that pass the unit tests are counted, as in Math-Shepherd (arXiv
2312.08935) and DreamPRM-Code (arXiv 2512.15000, section 3.2, with functions as steps). The last step is not rolled out:
its label is the program's outcome.

``estimate_program`` alternates between completions of the policy and verdicts of the judge, in rounds. The estimate
depends only on the program, the settings and the seed.

Reuse: a rollout of step i whose text begins with the prefix of a later step j of the same program also counts for j. A
policy that samples token by token continues a text in the same way whether the text was given or generated. Among the
rollouts that pass through prefix j, the verdict therefore has the same distribution as for rollouts of j, and the
estimate stays unbiased for any number of them. This requires the same temperature and prompt in both cases, and a token
boundary at the step's end (a line's end). Rollouts that were only shown the prefix and were not forced to continue it
do not count. A rollout that counts at several steps makes their estimates dependent.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.rollouts.allocation import check_strategy, rounds
from dreamprm_jax.labeling.rollouts.identity import identity, prefixes_passed
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, request_seed
from dreamprm_jax.schema import Problem, Program, Verdict, content_hash


@dataclass
class StepTally:
    """The counts of one prefix.

    Attributes:
      asked: Rollouts requested from the policy at this prefix.
      passes: Judged rollouts that passed all tests, including borrowed ones.
      failures: Judged rollouts that failed, including borrowed ones.
      borrowed: Judged rollouts of earlier prefixes that pass through this prefix.
      borrowed_passes: Borrowed rollouts that passed all tests.
      infrastructure_errors: Rollouts of this prefix without a label, due to the sandbox, the task or the server.
      sandbox_errors: The infrastructure errors that may get a label when judged again.
      unforced: Rollouts that were not forced to begin with this prefix.
      judged: Distinct programs sent to the judge, each counted at the first rollout that wrote it.
      unjudged: Rollouts without a verdict, including borrowed ones; see ``LabelConfig.judge_share``.
      singles: Judged rollouts whose program no other rollout wrote.
      single_passes: Singles that passed all tests.
      seed: Seed of the first request.
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
    """The tallies of all steps of a program except the last."""

    steps: tuple[StepTally, ...]
    rounds: int  # number of rounds of requests to the policy

    @property
    def asked(self) -> int:
        """Number of rollouts."""
        return sum(step.asked for step in self.steps)

    @property
    def judged(self) -> int:
        """Number of distinct programs among the rollouts, without the program itself."""
        return sum(step.judged for step in self.steps)

    @property
    def sandbox_errors(self) -> int:
        """Number of rollouts that may get a label when judged again."""
        return sum(step.sandbox_errors for step in self.steps)

    def to_json(self) -> list[Any]:
        """Plain values."""
        return [self.rounds, *(list(dataclasses.astuple(step)) for step in self.steps)]

    @classmethod
    def from_json(cls, value: list[Any]) -> ProgramEstimate:
        """Inverse of ``to_json``."""
        return cls(tuple(StepTally(*row) for row in value[1:]), value[0])


@dataclass(frozen=True)
class _Rollout:
    """One completion of a prefix."""

    step: int  # step of the prefix
    later: int  # number of later prefixes that it passes through
    same: str  # its identity
    forced: bool
    fault: str  # reason for a missing answer


def estimate_program(
    problem: Problem,
    program: Program,
    verdict: Verdict,
    settings: LabelConfig,
    seed: int,
    complete: Callable[[CompletionRequest], list[Completion]],
    judge: Callable[[list[str]], list[Verdict]],
) -> ProgramEstimate:
    """Estimates the steps of one program with blocking calls.

    Args:
      problem: The problem that the program solves.
      program: The program whose steps are estimated.
      verdict: Verdict of the program itself. If it is a label, completions equal to the program are not judged again.
      settings: Strategy, budget, reuse (``Config.label``).
      seed: Seed of the run (``Config.seed``). The seed of each request is derived from it, the program, the step and
        the number of earlier rollouts.
      complete: The policy. Its errors are propagated.
      judge: Returns the verdicts of programs for this problem, in order. Each distinct program is judged only once.

    Returns:
      The estimate, which is deterministic if policy and judge are. Repeat it if it has ``sandbox_errors``.

    Raises:
      DataError: if settings are inconsistent.
    """
    check_strategy(settings)
    prefixes = [program.code[: step.end] for step in split_steps(program.code, settings.granularity)[:-1]]
    seen = _Seen(len(prefixes), verdict, identity(program.code, settings.identical), settings.count_program)
    tallies = seen.tallies()
    asked = 0
    for planned in rounds(settings, tallies, verdict):
        asked += 1
        codes: dict[str, str] = {}  # by identity
        requests = []
        for step, count in planned:
            key = f"{program.program_hash}/{step}" + (f"/{tallies[step].asked}" if tallies[step].asked else "")
            request_number = request_seed(seed, "rollouts", key)
            seen.seeds.setdefault(step, request_number)
            requests.append(CompletionRequest(problem, prefixes[step], count, settings.temperature, request_number))
        for (step, _), request in zip(planned, requests, strict=True):
            for completion in complete(request):
                same = identity(completion.code, settings.identical)
                later = 0
                if not completion.fault:
                    codes.setdefault(same, completion.code)
                if settings.reuse != "none" and completion.forced and not completion.fault:
                    later = prefixes_passed(completion.code, prefixes[step + 1 :], settings.reuse)
                seen.rollouts.append(_Rollout(step, later, same, completion.forced, completion.fault))
        fresh = {same: code for same, code in codes.items() if same not in seen.verdicts}
        if settings.judge_share < 1.0:
            often = Counter(rollout.same for rollout in seen.rollouts if not rollout.fault)
            place = f"{seed}/{program.program_hash}"
            fresh = {s: c for s, c in fresh.items() if often[s] > 1 or _share(place, s) < settings.judge_share}
        if fresh:
            seen.verdicts.update(zip(fresh, judge(list(fresh.values())), strict=True))
        tallies[:] = seen.tallies()
    return ProgramEstimate(tuple(tallies), asked)


def _share(place: str, same: str) -> float:
    """A pseudo-random number in [0, 1) that depends on the program but not on its verdict."""
    return int(content_hash(place, same, digits=8), 16) / 16**8


@dataclass
class _Seen:
    """The rollouts of one program so far."""

    steps: int
    verdict: Verdict  # verdict of the program itself
    own: str  # identity of the program itself
    count_program: bool  # whether the program counts as a rollout of its own prefixes
    rollouts: list[_Rollout] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by identity
    seeds: dict[int, int] = field(default_factory=dict)  # by step

    def __post_init__(self) -> None:
        """Stores the program's verdict."""
        if self.verdict.is_label:
            self.verdicts[self.own] = self.verdict

    def tallies(self) -> list[StepTally]:
        """Counts every rollout at its own step and at the later steps that it passes through."""
        tallies = [StepTally(seed=self.seeds.get(step, 0)) for step in range(self.steps)]
        often = Counter(rollout.same for rollout in self.rollouts if not rollout.fault)
        charged = {self.own} if self.verdict.is_label else set()
        if self.count_program and self.verdict.is_label:
            for tally in tallies:
                _count(tally, passed=self.verdict is Verdict.AC, borrowed=True, single=False)
        for rollout in self.rollouts:
            tally, verdict = tallies[rollout.step], self.verdicts.get(rollout.same)
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
            single = often[rollout.same] == 1 and not (self.verdict.is_label and rollout.same == self.own)
            for informed in informs:
                _count(informed, passed=verdict is Verdict.AC, borrowed=informed is not tally, single=single)
        return tallies


def _count(tally: StepTally, *, passed: bool, borrowed: bool, single: bool) -> None:
    tally.passes += passed
    tally.failures += not passed
    tally.borrowed += borrowed
    tally.borrowed_passes += borrowed and passed
    tally.singles += single
    tally.single_passes += single and passed
