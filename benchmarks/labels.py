"""The error of Monte-Carlo labels against exact truth, by strategy and budget.

    python benchmarks/labels.py [--problems=300] [--seed=0] [--programs=1] [--reuse=text]

Procedural problems with programs and rollouts of the simulated policy, whose exact values are known. For every strategy
and budget, the table shows the rollouts requested and the distinct programs judged per step, and the error of four
labels made from the same counts: the share of passes (raw), beta shrinkage, the change-point EM, and the value model.
The errors are the Brier score against the step's exact value V and the AUROC against whether the prefix can still be
completed. Last steps are left out because their label is known. Verdicts are the exact ones, which equal the judge's
(tests/problems/test_procedural_truth.py).

Steps without a rollout get the mean of the others as their raw label.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, change_point_em
from dreamprm_jax.labeling.correction.correctors import beta_shrink
from dreamprm_jax.labeling.correction.value_model import single_ratio, value_em
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate, estimate_program
from dreamprm_jax.metrics.step_metrics import auroc, brier
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, request_seed
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.compose import compose
from dreamprm_jax.problems.procedural.truth import Valuer, program_truth
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.schema import Problem, Program, StepTruth, Verdict

REFERENCE = "fixed K=16, plain"
JudgeCodes = Callable[[Problem, list[str]], list[Verdict]]


@dataclass(frozen=True)
class Case:
    """One program with its truth."""

    problem: Problem
    program: Program
    verdict: Verdict
    truth: list[StepTruth]


class Policy:
    """The simulated policy with a cache, so that strategies share their completions."""

    def __init__(self, policy: SimulatedPolicy):
        self.policy = policy
        self._kept: dict[tuple[str, str, int], list[Completion]] = {}

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """The first n completions of a seed are those of a larger n."""
        key = (request.problem.problem_id, request.prefix, request.seed)
        if len(self._kept.get(key, [])) < request.n:
            self._kept[key] = self.policy.complete(request)
        return self._kept[key][: request.n]


def make_cases(problems: int, programs: int, seed: int) -> tuple[list[Case], Policy, JudgeCodes]:
    """Problems, programs, and the exact judge."""
    rows = [(problem, composition) for _, problem, composition in compose(seed, {"train": problems}, private_tests=5)]
    policy = SimulatedPolicy({composition.problem_id: composition for _, composition in rows})
    valuers = {composition.problem_id: Valuer(composition, problem, 1.0) for problem, composition in rows}

    def judge(problem: Problem, codes: list[str]) -> list[Verdict]:
        valuer = valuers[problem.problem_id]
        verdicts = []
        for code in codes:
            written = read(valuer.composition, code)
            assert written is not None
            verdicts.append(Verdict.AC if valuer.value(written)[1] else Verdict.WA)
        return verdicts

    cases = []
    for problem, composition in rows:
        asked = request_seed(seed, "candidates", problem.problem_id)
        codes = [c.code for c in policy.complete(CompletionRequest(problem, "", programs, 0.2, asked))]
        for index, code in enumerate(dict.fromkeys(codes)):
            program = Program.make(problem.problem_id, code, index, policy.name, {})
            (verdict,) = judge(problem, [code])
            cases.append(Case(problem, program, verdict, program_truth(valuers[composition.problem_id], program)))
    return cases, Policy(policy), judge


def strategies(reuse: Literal["none", "text", "code"]) -> Iterator[tuple[str, LabelConfig]]:
    """The rows of the table."""
    plain = LabelConfig(reuse="none", identical="text")
    for rollouts in (1, 2, 4, 8, 16):
        yield f"fixed K={rollouts}, plain", dataclasses.replace(plain, rollouts=rollouts)
    better = dataclasses.replace(plain, reuse=reuse, identical="code")
    for rollouts in (1, 2, 4, 8, 16):
        yield f"fixed K={rollouts}", dataclasses.replace(better, rollouts=rollouts)
    for rollouts in (4, 8, 12, 16):
        yield f"fixed K={rollouts}, share 0.1", dataclasses.replace(better, rollouts=rollouts, judge_share=0.1)
    for rollouts in (4, 8):
        adaptive = dataclasses.replace(better, strategy="adaptive", rollouts=rollouts)
        yield f"adaptive K<={rollouts}", adaptive
        yield f"adaptive K<={rollouts}, beta", dataclasses.replace(adaptive, posterior="beta")
    yield "adaptive K<=16, fine", dataclasses.replace(better, strategy="adaptive", rollouts=16, decided=0.07)
    for rollouts in (2, 4, 8):
        yield f"binary search K={rollouts}", dataclasses.replace(better, strategy="binary_search", rollouts=rollouts)


@dataclass(frozen=True)
class Errors:
    """One row of the table."""

    asked: float  # rollouts per step
    judged: float  # distinct programs per step
    brier: dict[str, float]  # by label
    auroc: dict[str, float]


def measure(cases: list[Case], estimates: list[ProgramEstimate]) -> Errors:
    """The errors of the labels that the counts give."""
    tallies = [tally for estimate in estimates for tally in estimate.steps]
    lengths = np.array([len(case.truth) for case in cases])
    program = np.repeat(np.arange(len(cases)), lengths)
    inner = np.ones(len(program), bool)
    inner[np.cumsum(lengths) - 1] = False
    outcome = np.array([PASSED if case.verdict is Verdict.AC else FAILED for case in cases])
    passes, rollouts = np.zeros((2, len(program)), int)
    passes[inner] = [tally.passes for tally in tallies]
    rollouts[inner] = [tally.passes + tally.failures for tally in tallies]
    raw = passes[inner] / rollouts[inner].clip(1)
    raw[rollouts[inner] == 0] = raw[rollouts[inner] > 0].mean()
    problem = np.unique([case.problem.problem_id for case in cases], return_inverse=True)[1]
    recoverable = change_point_em(passes, rollouts, program, outcome, problem).recoverable[inner]
    unjudged = np.zeros(len(program), int)
    unjudged[inner] = [tally.unjudged for tally in tallies]
    fields = ("singles", "single_passes", "unjudged")
    singles, single_passes, left_out = (sum(getattr(tally, name) for tally in tallies) for name in fields)
    ratio = single_ratio(int(passes[inner].sum()), int(rollouts[inner].sum()), singles, single_passes, left_out)
    values = value_em(passes, rollouts, program, outcome, unjudged, ratio)
    labels = {
        "raw": (raw, raw),
        "shrink": (beta_shrink(passes[inner], rollouts[inner]),) * 2,
        "EM": (recoverable, recoverable),
        "value": (values.value[inner], values.recoverable[inner]),
    }
    value = np.array([row.value for case in cases for row in case.truth[:-1]])
    saved = np.array([row.recoverable for case in cases for row in case.truth[:-1]])
    return Errors(
        sum(tally.asked for tally in tallies) / len(tallies),
        sum(tally.judged for tally in tallies) / len(tallies),
        {name: brier(label, value) for name, (label, _) in labels.items()},
        {name: auroc(label, saved) for name, (_, label) in labels.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--programs", type=int, default=1, help="of each problem")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reuse", choices=["none", "text", "code"], default="text", help="in all rows but the plain ones"
    )
    options = parser.parse_args()
    cases, policy, verdicts = make_cases(options.problems, options.programs, options.seed)
    steps = sum(len(case.truth) - 1 for case in cases)
    print(f"{len(cases)} programs, {steps} steps; Brier against V, then AUROC against recoverable, of each label")
    names = ("raw", "shrink", "EM", "value")
    print(f"{'':<22} {'asked':>6} {'judged':>6} " + " ".join(f"{n:>7}" for n in names * 2), flush=True)
    rows: dict[str, Errors] = {}
    for name, settings in strategies(options.reuse):
        estimates = [
            estimate_program(
                case.problem, case.program, case.verdict, settings, options.seed, policy.complete,
                lambda codes, problem=case.problem: verdicts(problem, codes),  # type: ignore[misc]
            )
            for case in cases
        ]  # fmt: skip
        rows[name] = row = measure(cases, estimates)
        figures = [f"{row.brier[n]:7.4f}" for n in names] + [f"{row.auroc[n]:7.4f}" for n in names]
        print(f"{name:<22} {row.asked:6.2f} {row.judged:6.2f} " + " ".join(figures), flush=True)
    reference = rows[REFERENCE]
    print(f"\nNo worse than {REFERENCE}, raw, in both columns, with at most a third of its judged programs:")
    for name, row in rows.items():
        for label in names:
            errors = row.brier[label] <= reference.brier["raw"] and row.auroc[label] >= reference.auroc["raw"]
            if errors and row.judged <= reference.judged / 3:
                print(f"  {name}, {label}: {row.judged / reference.judged:.2f} of its judged programs, "
                      f"{row.asked / reference.asked:.2f} of its rollouts")  # fmt: skip


if __name__ == "__main__":
    main()
