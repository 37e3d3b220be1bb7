"""Compares labelings on real programs: CodeI/O references with wrong variants of their functions.

The truth is measured by execution. A program is drawn function by function, where each function has its own probability
of a wrong variant. The outcome, the truth of the prefixes and the pass probability of their rollouts follow from the
verdicts on all combinations (``codeio_variants``). A draw from Binomial(K, probability) has the same distribution as
the label of K judged rollouts. The regimes are those of the procedural study and affect only the labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.correction.methods import FIXED, LabelSource, StepKey, counted_step, fixed_labels, step_key
from dreamprm_jax.metrics.statistics import percentile_interval, resampled_counts
from dreamprm_jax.metrics.step_metrics import auroc_replicates
from dreamprm_jax.policy.protocol import request_seed
from dreamprm_jax.schema import DataError, Outcome, StepLabel, Verdict
from research.study.codeio_variants import Limits, Variants
from research.study.measures import label_measures
from research.study.regimes import Regime, regime
from research.study.results import Row

BASELINE = "raw"
TRUE_VALUE = "true_value"  # not a labeling but a reference: the limit of infinitely many rollouts of the writing policy
HIGHEST_RATE = 0.7  # upper bound of mistake rates, including those of a weak completer
_BINS = 10


@dataclass(frozen=True)
class CodeioSettings:
    """One study on CodeI/O."""

    name: str = "study_codeio"
    limits: Limits = field(default_factory=Limits)
    data_seed: int = 0  # seed of tests, mutants and mistake rates
    seeds: tuple[int, ...] = (0, 1, 2)  # seeds of programs and rollouts; their steps are measured together
    programs: int = 4  # programs drawn per problem and seed; equal programs count once
    lowest_rate: float = 0.05  # a function's mistake rate is uniform between these two
    highest_rate: float = 0.35
    regimes: tuple[str, ...] = (
        "k1",
        "k4",
        "k16",
        "weak_tests",
        "weak_completer",
        "k1_repair20",
        "k4_repair20",
        "k16_repair20",
    )
    labelings: tuple[str, ...] = (
        BASELINE,
        "raw_with_outcome",
        "closure",
        "closure_mixture",
        "scan",
        "em",
        "undetected_fault",
        "calibrator",
    )
    clean_problems: int = 50  # problems with clean steps for the calibrator; no labeling is measured on them
    bootstrap_samples: int = 2000
    tier: Literal["FULL", "PORTABLE", "EXTERNAL", "UNSAFE"] = "PORTABLE"  # of the sandbox
    workers: int = 0  # number of programs that run concurrently; 0: one per core

    def __post_init__(self) -> None:
        """Raises DataError for invalid values."""
        for name in self.regimes:
            if regime(name).weak_share:
                raise DataError(f"config.regimes: {name!r} is of the procedural benchmark's primitives; none are here")
        unfit = [name for name in self.labelings if name not in FIXED or name in ("clean", "stored")]
        if unfit or BASELINE not in self.labelings:
            known = ", ".join(name for name in FIXED if name not in ("clean", "stored"))
            raise DataError(
                f"config.labelings: {BASELINE!r} and others of {known}; not {', '.join(unfit) or 'without'}"
            )
        if not 0.0 <= self.lowest_rate <= self.highest_rate <= HIGHEST_RATE:
            raise DataError(f"config.lowest_rate, config.highest_rate: between 0 and {HIGHEST_RATE}, in this order")
        if not 0 < self.clean_problems <= self.limits.problems - 2:
            raise DataError("config.clean_problems: at least 1, and at least 2 fewer than config.limits.problems")
        if not self.seeds or min(self.programs, self.bootstrap_samples) < 1:
            raise DataError("config.seeds, config.programs, config.bootstrap_samples: at least one")


@dataclass(frozen=True)
class Steps:
    """The measured steps of one regime, for all seeds together."""

    problem: Int[np.ndarray, " n"]  # index of each step's problem
    recoverable: Bool[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]  # V, the pass probability of completions by the writing policy
    labels: dict[str, Float[np.ndarray, " n"]]  # by labeling
    chance: Float[np.ndarray, " n"]  # probability that a rollout counts as a pass in this regime
    passed: Float[np.ndarray, " programs"]  # outcomes, 0 or 1


def mistake_weights(
    problem: Variants, settings: CodeioSettings, scale: float = 1.0
) -> list[Float[np.ndarray, " variants"]]:
    """The probability of each variant of each function, with mistake rates multiplied by ``scale``."""
    rng = np.random.default_rng(request_seed(settings.data_seed, "rates", problem.problem_id))
    weights = []
    for variants in problem.texts:
        wrong = len(variants) - 1
        rate = rng.uniform(settings.lowest_rate, settings.highest_rate)
        rate = min(scale * rate, HIGHEST_RATE) if wrong else 0.0
        weights.append(np.array([1.0 - rate, *([rate / wrong] * wrong if wrong else [])]))
    return weights


def draw_steps(problems: Sequence[Variants], settings: CodeioSettings, here: Regime) -> Steps:
    """The steps, labels and truth of one regime. Programs and truth are the same in all regimes."""
    measured = {one.problem_id: index for index, one in enumerate(problems[settings.clean_problems :])}
    found: list[tuple[int, bool, float, float]] = []
    columns: dict[str, list[float]] = {name: [] for name in settings.labelings}
    outcomes = []
    for seed in settings.seeds:
        drawn = draw_programs(problems, settings, here, seed)
        source, truth = drawn.source, drawn.truth
        keep = [index for index, row in enumerate(source.steps) if row.problem_id in measured]
        for name in settings.labelings:
            columns[name] += fixed_labels(name, source, LabelsConfig())[keep].tolist()
        keys = [step_key(source.steps[index]) for index in keep]
        found += [(measured[key[0]], *truth[key]) for key in keys]
        outcomes += [float(one.passed) for one in source.outcomes.values() if one.problem_id in measured]
    problem, recoverable, value, chance = (np.array(column) for column in zip(*found, strict=True))
    labels = {name: np.array(column) for name, column in columns.items()} | {TRUE_VALUE: value}
    return Steps(problem, recoverable, value, labels, chance, np.array(outcomes))


@dataclass(frozen=True)
class Drawn:
    """The programs of one seed with their labels."""

    source: LabelSource  # input of the labelings
    truth: dict[StepKey, tuple[bool, float, float]]  # step -> recoverable, V, pass probability of a rollout
    choices: dict[tuple[str, str], tuple[int, ...]]  # (problem id, program hash) -> variant of each step
    draws: Counter[tuple[str, str]]  # (problem id, program hash) -> number of draws


def draw_programs(problems: Sequence[Variants], settings: CodeioSettings, here: Regime, seed: int) -> Drawn:
    """Draws the programs of a seed, and their rollouts in a regime."""
    labels: list[StepLabel] = []
    outcomes: dict[str, Outcome] = {}
    truth: dict[StepKey, tuple[bool, float, float]] = {}
    clean: dict[StepKey, float] = {}
    choices: dict[tuple[str, str], tuple[int, ...]] = {}
    draws: Counter[tuple[str, str]] = Counter()
    for number, one in enumerate(problems):
        own, completer = (mistake_weights(one, settings, scale) for scale in (1.0, here.completer_scale))
        rng = np.random.default_rng(request_seed(seed, "programs", one.problem_id))
        drawn = [tuple(int(rng.choice(len(w), p=w)) for w in own) for _ in range(settings.programs)]
        for choice, count_drawn in Counter(drawn).items():
            code = one.hash(choice)
            draws[one.problem_id, code] = count_drawn
            choices[one.problem_id, code] = choice
            passed = bool(one.passed()[choice])
            verdict = Verdict.AC if passed else Verdict.WA
            count = int(one.tests_passed[choice])
            outcomes[code] = Outcome(one.problem_id, code, verdict, count, one.tests, "", 0.0, "faithful", "PORTABLE")
            values, chances = one.chances(choice, own), one.chances(choice, completer, here.judge_tests)
            if here.repair:  # fraction of the completions that define a function of the prefix again
                again = one.redefined(choice, completer, here.judge_tests)
                chances = (1.0 - here.repair) * chances + here.repair * again
            rng = np.random.default_rng(request_seed(seed, "rollouts", here.name, code))
            last = len(choice) - 1
            for step, recoverable in enumerate(one.recoverable(choice)):
                key = (one.problem_id, code, step)
                truth[key] = (bool(recoverable), float(values[step]), float(chances[step]))
                if number < settings.clean_problems:
                    clean[key] = float(recoverable)
                rollouts = 1 if step == last else here.rollouts
                passes = int(passed) if step == last else int(rng.binomial(rollouts, chances[step]))
                labels.append(counted_step(key, passes, rollouts, f"variants/{here.name}"))
    return Drawn(LabelSource(labels, outcomes, clean, settings.clean_problems), truth, choices, draws)


def compare(steps: Steps, here: Regime, samples: int) -> list[Row]:
    """One row per labeling: each measure with its 95% interval over problems, and its paired difference from raw."""
    rows: list[Row] = []
    base = label_measures(steps.labels[BASELINE], steps.recoverable, steps.value)
    base_replicates = _replicates(steps, BASELINE, samples)
    for name in steps.labels:
        figures = label_measures(steps.labels[name], steps.recoverable, steps.value)
        replicates = _replicates(steps, name, samples)
        row: Row = {"regime": here.name, "labeling": name}
        for measure, value in figures.items():
            whole = percentile_interval(value, replicates[measure])
            paired = percentile_interval(value - base[measure], replicates[measure] - base_replicates[measure])
            row[measure] = {"value": value, "low": whole.low, "high": whole.high}
            row[measure] |= {"minus_raw": paired.estimate, "minus_raw_low": paired.low, "minus_raw_high": paired.high}
        rows.append(row)
    return rows


def _replicates(steps: Steps, name: str, samples: int) -> dict[str, Float[np.ndarray, " samples"]]:
    """The measures of ``label_measures`` on resampled problems. All labelings use the same resamples."""
    labels, problems = steps.labels[name], int(steps.problem.max()) + 1
    surplus = np.zeros((problems, _BINS))  # labels - recoverable, summed by bin; the ECE adds absolute values
    np.add.at(surplus, (steps.problem, np.clip((labels * _BINS).astype(int), 0, _BINS - 1)), labels - steps.recoverable)
    squares = [(labels - steps.recoverable) ** 2, (labels - steps.value) ** 2, np.ones(len(labels))]
    sums = np.stack([np.bincount(steps.problem, column, problems) for column in squares], axis=1)
    counts = np.concatenate(list(resampled_counts(problems, samples, seed=0)))
    brier, brier_value, rows = (counts @ sums).T
    return {
        "label_auroc": auroc_replicates(labels, steps.recoverable, steps.problem, problems, samples, seed=0),
        "label_brier": brier / rows,
        "label_ece": np.abs(counts @ surplus).sum(axis=1) / rows,
        "label_brier_value": brier_value / rows,
    }
