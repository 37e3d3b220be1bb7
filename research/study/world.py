"""The world of one seed: problems, programs, exact outcomes and truth, and the Monte-Carlo labels of a regime.

Nothing is executed in the sandbox here. The forms are the benchmark's own code, and the probability that a completion
of a prefix passes is known exactly (``problems.procedural.truth``). The number of passes of K independent rollouts has
the distribution Binomial(K, probability). Drawing this number takes microseconds and gives labels with the same
distribution as judged rollouts (without the reuse of rollouts). A test compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dreamprm_jax.labeling.correction.methods import counted_step
from dreamprm_jax.policy.protocol import CompletionRequest, request_seed
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.compose import Composition, HeldOut, compose
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import Written, read
from dreamprm_jax.schema import Outcome, Program, StepLabel, TestedProblem, Verdict
from research.study.regimes import Regime

WINDOWS = ("train", "meta", "test")


@dataclass(frozen=True)
class Sizes:
    """Number of problems in each window, and number of programs per problem."""

    train: int = 400
    meta: int = 150
    test: int = 120
    train_programs: int = 1
    test_programs: int = 8
    private_tests: int = 5
    held_out: HeldOut = "compositions"  # what is new in test problems compared with training problems


@dataclass(frozen=True)
class Known:
    """A program with its exact truth."""

    program: Program
    written: Written
    passed: bool  # whether it passes all tests
    value: Float[np.ndarray, " steps"]  # V, the pass probability of the writing policy's completions of each prefix
    recoverable: Bool[np.ndarray, " steps"]  # whether any completion passes

    @property
    def first_fatal(self) -> int:
        """The first step after which no completion passes, -1 if the program passes."""
        return -1 if self.recoverable.all() else int(np.argmin(self.recoverable))


@dataclass(frozen=True)
class World:
    """The problems and programs of one seed; the same in all regimes."""

    seed: int
    problems: dict[str, dict[str, TestedProblem]]  # by window, by problem id
    compositions: dict[str, Composition]
    programs: dict[str, list[Known]]  # by window, with programs of one problem adjacent

    def outcomes(self, window: str) -> list[Outcome]:
        """The outcomes of the programs, in the form that the judge writes."""
        return [
            Outcome(
                one.program.problem_id,
                one.program.program_hash,
                Verdict.AC if one.passed else Verdict.WA,
                int(one.passed),
                1,
                "",
                0.0,
                "faithful",
                "PORTABLE",
            )
            for one in self.programs[window]
        ]


def make_world(seed: int, sizes: Sizes) -> World:
    """Composes problems, samples programs from the simulated policy, and computes their truth."""
    problems: dict[str, dict[str, TestedProblem]] = {window: {} for window in WINDOWS}
    compositions: dict[str, Composition] = {}
    counts = {"train": sizes.train, "meta": sizes.meta, "test": sizes.test}
    for window, problem, composition in compose(seed, counts, sizes.private_tests, sizes.held_out):
        problems[window][problem.problem_id] = problem
        compositions[problem.problem_id] = composition
    policy = SimulatedPolicy(compositions)
    programs: dict[str, list[Known]] = {window: [] for window in WINDOWS}
    for window in WINDOWS:
        wanted = sizes.test_programs if window == "test" else sizes.train_programs
        for problem in problems[window].values():
            valuer = Valuer(compositions[problem.problem_id], problem, 1.0)
            request = CompletionRequest(problem, "", wanted, 1.0, request_seed(seed, "candidates", problem.problem_id))
            for index, answer in enumerate(policy.complete(request)):
                program = Program.make(problem.problem_id, answer.code, index, policy.name, {})
                programs[window].append(_with_truth(valuer, program))
    return World(seed, problems, compositions, programs)


def _with_truth(valuer: Valuer, program: Program) -> Known:
    written = read(valuer.composition, program.code)
    assert written is not None
    pairs = [valuer.value(prefix) for prefix in _prefixes(written)]
    value, recoverable = np.array([v for v, _ in pairs]), np.array([r for _, r in pairs])
    return Known(program, written, bool(recoverable[-1]), value, recoverable)


def _prefixes(written: Written) -> list[Written]:
    """The prefixes after main and after each helper. The last one is the whole program."""
    return [Written(written.plan, written.forms[:done], False) for done in range(len(written.forms) + 1)]


def rollout_chances(
    world: World, regime: Regime, window: str, programs: Sequence[Known]
) -> list[Float[np.ndarray, " steps"]]:
    """The probability that a rollout of each prefix of the programs counts as a pass in the regime."""
    chances = _without_repair(world, regime, window, programs)
    if not regime.repair:
        return chances
    return [
        np.where(one.recoverable, chance, chance + (1.0 - chance) * regime.repair)
        for one, chance in zip(programs, chances, strict=True)
    ]


def _without_repair(
    world: World, regime: Regime, window: str, programs: Sequence[Known]
) -> list[Float[np.ndarray, " steps"]]:
    weak = regime.weak_primitives(world.seed)
    if regime.completer_scale == 1.0 and not weak and not regime.judge_tests:
        return [one.value for one in programs]
    valuers: dict[str, Valuer] = {}
    chances = []
    for one in programs:
        key = one.program.problem_id
        if key not in valuers:
            valuers = {
                key: Valuer(
                    world.compositions[key],
                    _with_tests(world.problems[window][key], regime.judge_tests),
                    regime.completer_scale,
                    weak,
                )
            }
        chances.append(np.array([valuers[key].value(prefix)[0] for prefix in _prefixes(one.written)]))
    return chances


def _with_tests(problem: TestedProblem, count: int) -> TestedProblem:
    if not count:
        return problem
    return dataclasses.replace(problem, public_tests=problem.tests[:count], private_tests=())


def draw_labels(world: World, regime: Regime, window: str, programs: Sequence[Known]) -> list[StepLabel]:
    """Draws K rollouts for every step except the last of each program. The last step's label is the outcome."""
    labels = []
    for one, chance in zip(programs, rollout_chances(world, regime, window, programs), strict=True):
        rng = np.random.default_rng(request_seed(world.seed, "rollouts", regime.name, one.program.program_hash))
        for step, passing in enumerate(chance):
            last = step == len(chance) - 1
            rollouts = 1 if last else regime.rollouts
            passes = int(one.passed) if last else int(rng.binomial(rollouts, min(float(passing), 1.0)))
            key = (one.program.problem_id, one.program.program_hash, step)
            labels.append(counted_step(key, passes, rollouts, f"simulated/{regime.name}"))
    return labels
