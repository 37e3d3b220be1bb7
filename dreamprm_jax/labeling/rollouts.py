"""Estimates the steps of many programs at once: completions are asked for ahead, programs stream through the judge."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dreamprm_jax.config import Config
from dreamprm_jax.engine.ordered import ordered_map
from dreamprm_jax.labeling.estimate import Estimation, ProgramEstimate, Wanted, advance, estimation
from dreamprm_jax.labeling.identity import identity
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, Policy, PolicyError
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import Problem, Program, Verdict, content_hash, program_hash

_WAITING = 1024  # programs that may wait for their next round while others begin
_REMEMBERED = 4096  # problems whose verdicts are kept


@dataclass(frozen=True)
class ProgramUnit:
    """One unit of work: the rollouts of all steps of one program."""

    problem: Problem
    program: Program
    verdict: Verdict  # of the program itself

    @property
    def key(self) -> str:
        """The unit's name in the journal."""
        return self.program.program_hash


def judge_task(problem: Problem, code: str) -> JudgeTask:
    """The task of running one program on all tests of its problem."""
    return JudgeTask(program_hash(problem.problem_id, code), code, problem.tests, problem.func_name)


@dataclass
class _Running:
    """A unit that has begun."""

    unit: ProgramUnit
    work: Estimation
    requests: list[CompletionRequest]
    answers: dict[int, list[Completion] | PolicyError] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by identity
    missing: int = 0  # verdicts


def roll_out(
    config: Config, units: Iterable[ProgramUnit], policy: Policy, judge: Judge
) -> Iterator[tuple[ProgramUnit, ProgramEstimate | PolicyError]]:
    """Estimates every unit, as ``estimate_program`` does.

    A program that is equal to one judged before, for the same problem, is not run again. Programs whose strategy wants
    another round wait until the judge has seen the round of all the others.

    Yields:
      Each unit, as it is finished, with its estimate, or with the policy's error.
    """
    return _Driver(config, policy, judge).run(iter(units))


class _Driver:
    """The state of one ``roll_out``."""

    def __init__(self, config: Config, policy: Policy, judge: Judge):
        self.config, self.policy, self.judge = config, policy, judge
        self.known: OrderedDict[str, dict[str, Verdict]] = OrderedDict()  # by problem, by key of the program
        self.waiters: dict[str, list[tuple[_Running, str]]] = {}  # by key of a program at the judge: who, its identity
        self.again: list[_Running] = []  # with requests for the next wave
        self.finished: list[tuple[ProgramUnit, ProgramEstimate | PolicyError]] = []

    def run(self, units: Iterator[ProgramUnit]) -> Iterator[tuple[ProgramUnit, ProgramEstimate | PolicyError]]:
        """In waves: the waiting programs, then new ones until too many wait."""
        while True:
            wave, self.again = self.again, []
            for result in self.judge.evaluate(self._tasks(self._wave(wave, units))):
                self._deliver(result.key, result.verdict)
                yield from self._drain()
            yield from self._drain()
            if not self.again and not wave:
                return

    def _drain(self) -> list[tuple[ProgramUnit, ProgramEstimate | PolicyError]]:
        finished, self.finished = self.finished, []
        return finished

    def _wave(self, waiting: list[_Running], units: Iterator[ProgramUnit]) -> Iterator[_Running]:
        yield from waiting
        while len(self.again) < _WAITING:
            unit = next(units, None)
            if unit is None:
                return
            work = estimation(unit.problem, unit.program, unit.verdict, self.config.label, self.config.seed)
            if unit.verdict.is_label:
                own = identity(unit.program.code, self.config.label.identical)
                self._remember(unit.problem.problem_id, _key(unit, own), unit.verdict)
            state = advance(work, None)
            if isinstance(state, list):
                yield _Running(unit, work, state)
            else:
                assert isinstance(state, ProgramEstimate)  # without rollouts there is nothing to judge
                self.finished.append((unit, state))

    def _tasks(self, wave: Iterator[_Running]) -> Iterator[JudgeTask]:
        def complete(item: tuple[_Running, int]) -> list[Completion] | PolicyError:
            try:
                return self.policy.complete(item[0].requests[item[1]])
            except PolicyError as error:
                return error

        items = ((running, index) for running in wave for index in range(len(running.requests)))
        for (running, index), answer in ordered_map(complete, items, self.config.policy.concurrency):
            running.answers[index] = answer
            if len(running.answers) < len(running.requests):
                continue
            answers = [running.answers[i] for i in range(len(running.requests))]
            error = next((one for one in answers if isinstance(one, PolicyError)), None)
            if error is not None:
                self.finished.append((running.unit, error))
            else:
                completed = [one for one in answers if not isinstance(one, PolicyError)]
                yield from self._proceed(running, advance(running.work, completed))

    def _proceed(self, running: _Running, state: Wanted | ProgramEstimate) -> list[JudgeTask]:
        """Takes what the unit wants next. Returns the programs that have to be run for it."""
        running.answers, running.verdicts = {}, {}
        if isinstance(state, ProgramEstimate):
            self.finished.append((running.unit, state))
            return []
        if isinstance(state, list):
            running.requests = state
            self.again.append(running)
            return []
        problem = running.unit.problem
        known = self.known.get(problem.problem_id, {})
        tasks = []
        for same, code in state.items():
            key = _key(running.unit, same)
            if key in known:
                running.verdicts[same] = known[key]
                continue
            if key not in self.waiters:
                tasks.append(JudgeTask(key, code, problem.tests, problem.func_name))
            self.waiters.setdefault(key, []).append((running, same))
            running.missing += 1
        return tasks if running.missing else self._proceed(running, advance(running.work, running.verdicts))

    def _deliver(self, key: str, verdict: Verdict) -> None:
        for running, same in self.waiters.pop(key):
            running.verdicts[same] = verdict
            running.missing -= 1
            if verdict is not Verdict.SANDBOX_ERROR:  # that says nothing about the program's next run
                self._remember(running.unit.problem.problem_id, key, verdict)
            if not running.missing:
                more = self._proceed(running, advance(running.work, running.verdicts))
                assert not more  # after verdicts come requests, or the end

    def _remember(self, problem_id: str, key: str, verdict: Verdict) -> None:
        self.known.setdefault(problem_id, {})[key] = verdict
        self.known.move_to_end(problem_id)
        if len(self.known) > _REMEMBERED:
            self.known.popitem(last=False)


def _key(unit: ProgramUnit, same: str) -> str:
    return content_hash(unit.problem.problem_id, same)
