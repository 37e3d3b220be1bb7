"""Exact truth of a program's steps: first wrong step, value of each prefix, recoverability. For evaluation only.

The value of a prefix is the probability that the policy's completion of it passes all tests. To compute it exactly, the
intermediate values of the tests are propagated through all forms of all functions that are not yet written, and paths
with equal values are merged. Outputs are compared in the same way as in the judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dreamprm_jax.problems.procedural.compose import Composition, run_form
from dreamprm_jax.problems.procedural.mistakes import Plan, form_probabilities, plan_probabilities, plans
from dreamprm_jax.problems.procedural.writing import Written, read
from dreamprm_jax.sandbox.compare import output_mismatch
from dreamprm_jax.schema import DataError, Program, StepTruth, TestedProblem

FAILED = ("failed",)  # state of a program that has crashed on a test, so that it cannot pass
State = tuple[Any, ...]  # one intermediate value per test


class Valuer:
    """Exact values of one problem's prefixes, memoized."""

    def __init__(
        self, composition: Composition, problem: TestedProblem, scale: float, weak: frozenset[str] = frozenset()
    ) -> None:
        """The policy has ``scale`` times the benchmark's mistake rates; ``HIGHEST_RATE`` for primitives in ``weak``."""
        self.composition = composition
        self.scale, self.weak = scale, weak
        self._start: State = tuple(test.input for test in problem.tests)
        self._expected = tuple(test.output for test in problem.tests)
        self._values: dict[tuple[Any, ...], tuple[float, bool]] = {}
        self._applied: dict[tuple[Any, ...], State] = {}

    def value(self, written: Written) -> tuple[float, bool]:
        """For the prefix ``written``: (probability that a completion passes, whether any completion can pass)."""
        if written.plan is None:
            weighted = [
                (p, self._from(plan, 0, self._start))
                for plan, p in zip(
                    plans(self.composition), plan_probabilities(self.composition, self.scale), strict=True
                )
            ]
            return sum(p * v for p, (v, _) in weighted), any(r for _, (_, r) in weighted)
        state = self._start
        for position, form in zip(written.plan.calls, written.forms, strict=False):
            state = self._apply(position, form, state)
        return self._from(written.plan, len(written.forms), state)

    def _from(self, plan: Plan, done: int, state: State) -> tuple[float, bool]:
        if state == FAILED:
            return 0.0, False
        if done == len(plan.calls):
            passes = all(
                output_mismatch(f"{value}\n", expected) is None
                for value, expected in zip(state, self._expected, strict=True)
            )
            return float(passes), passes
        key = (plan.calls[done:], state)
        if key not in self._values:
            position = plan.calls[done]
            total, possible = 0.0, False
            for form, probability in enumerate(form_probabilities(self.composition, position, self.scale, self.weak)):
                value, reachable = self._from(plan, done + 1, self._apply(position, form, state))
                total += probability * value
                possible = possible or (reachable and probability > 0)
            self._values[key] = total, possible
        return self._values[key]

    def _apply(self, position: int, form: int, state: State) -> State:
        if state == FAILED:
            return FAILED
        key = (position, form, state)
        if key not in self._applied:
            name, parameter = self.composition.names[position], self.composition.parameters[position]
            try:
                results = (run_form(name, form, parameter, value) for value in state)
                self._applied[key] = tuple(tuple(r) if isinstance(r, list) else r for r in results)
            except Exception:  # a wrong form may raise any error; the test then fails
                self._applied[key] = FAILED
        return self._applied[key]


def program_truth(valuer: Valuer, program: Program) -> list[StepTruth]:
    """The truth of every step of one complete program of the simulated policy.

    Raises:
      DataError: if the simulated policy cannot have written the program.
    """
    written = read(valuer.composition, program.code)
    if written is None or written.plan is None or not written.closed:
        raise DataError(f"program {program.program_hash} of {program.problem_id}: not written by the simulated policy")
    wrong = [not written.plan.is_right(valuer.composition), *[form != 0 for form in written.forms]]
    first_wrong = wrong.index(True) if any(wrong) else -1
    rows = []
    for index in range(len(wrong)):
        value, recoverable = valuer.value(Written(written.plan, written.forms[:index], False))
        rows.append(
            StepTruth(program.problem_id, program.program_hash, index, value, recoverable, wrong[index], first_wrong)
        )
    return rows


def step_truth(
    problems: Iterable[TestedProblem], compositions: dict[str, Composition], programs: Iterable[Program], scale: float
) -> list[StepTruth]:
    """The truth of every step of every program, in the order of ``programs``.

    Args:
      problems: Problems with all their tests.
      compositions: Compositions by problem id, as written by the generate stage.
      programs: Programs of the simulated policy.
      scale: ``PolicyConfig.wrong_rate_scale`` of the completing policy.
    """
    by_id = {problem.problem_id: problem for problem in problems}
    valuers: dict[str, Valuer] = {}
    rows: list[StepTruth] = []
    for program in programs:
        key = program.problem_id
        if key not in valuers:
            valuers = {key: Valuer(compositions[key], by_id[key], scale)}  # programs are grouped by problem
        rows += program_truth(valuers[key], program)
    return rows
