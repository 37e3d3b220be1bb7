"""Return values of ``dreamprm_jax.api``. In a notebook, scored programs show their code colored by the scores."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from dreamprm_jax.evaluation.report.viewer import color, visible
from dreamprm_jax.sandbox.records import JudgedTest


@dataclass(frozen=True)
class CodeStep:
    """One step of a program. The steps concatenate to the program, byte for byte."""

    name: str  # qualified name of the function; "" if the program has none
    code: str


@dataclass(frozen=True)
class Judgment:
    """The verdict on one program; true if it passed all tests."""

    passed: bool
    verdict: str  # AC, WA, TLE, MLE, OLE, RE, CE; SANDBOX_ERROR and INVALID_TASK say nothing about the program
    tests_passed: int  # before the first failure
    tests_total: int
    error: str  # short text; "" if it passed
    cpu_seconds: float
    tests: tuple[JudgedTest, ...] = ()  # with ``per_test``: the judged tests, of which the last may have failed

    def __bool__(self) -> bool:
        return self.passed


@dataclass(frozen=True)
class ScoredStep(CodeStep):
    """One step with the reward model's score at its end."""

    score: float  # in [0, 1]: probability that the prefix up to here can be completed to a correct program
    logit: float

    def __repr__(self) -> str:
        return f"ScoredStep({self.name or 'script'!r}, score={self.score:.3f})"


@dataclass(frozen=True)
class ScoredProgram:
    """One program with the scores of its steps. A notebook shows its code colored by the scores."""

    steps: tuple[ScoredStep, ...]
    score: float  # the step scores aggregated to one number in [0, 1]
    aggregator: str

    @property
    def code(self) -> str:
        """The program."""
        return "".join(step.code for step in self.steps)

    def __float__(self) -> float:
        return self.score

    def __repr__(self) -> str:
        steps = ", ".join(f"{step.name or 'script'} {step.score:.3f}" for step in self.steps)
        return f"ScoredProgram(score={self.score:.3f} by {self.aggregator!r}, steps: {steps})"

    def _repr_html_(self) -> str:
        return "".join(
            f'<pre style="margin:0;padding:.2em .5em;background:{color(step.score)}" '
            f'title="{html.escape(step.name)}"><b style="float:right">{step.score:.2f}</b>'
            f"{html.escape(visible(step.code))}</pre>"
            for step in self.steps
        )


@dataclass(frozen=True)
class BestOf:
    """The candidate that a reward model selected, and the scores of all candidates."""

    index: int  # index of the selected candidate; the first of tied candidates
    code: str
    score: float  # NaN if no candidate has a score
    programs: tuple[ScoredProgram | None, ...] = field(repr=False)  # None: could not be scored, and ranks last
    judgments: tuple[Judgment, ...] | None = field(default=None, repr=False)  # on the tests, if given

    def _repr_html_(self) -> str:
        scores = ", ".join("no score" if one is None else f"{one.score:.2f}" for one in self.programs)
        chosen = self.programs[self.index]
        shown = f"<pre>{html.escape(visible(self.code))}</pre>" if chosen is None else chosen._repr_html_()
        return f"<p>candidate {self.index} of {len(self.programs)} (scores: {scores})</p>{shown}"
