"""The labelings by name. A labeling gives the training target of each noisy step, from counts, outcomes and labels.

Labelings that the outer problem learns start from a fixed labeling. One labeling is inferred in every training step.
All labelings apply to every step of a program except the last, whose label is the program's outcome.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.correction.calibrator import fit_calibrator
from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, UNKNOWN, change_point_em, outcome_code
from dreamprm_jax.labeling.correction.correctors import beta_shrink, closure, scan, smoothing
from dreamprm_jax.labeling.correction.fault_model import Faults, fault_em
from dreamprm_jax.labeling.correction.value_model import single_ratio, value_em
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, StepLabel
from dreamprm_jax.storage import read_records

StepKey = tuple[str, str, int]  # problem id, program hash, step index

ORM, CORRECTED = "orm", "corrected"  # arms that are not labelings: outcomes only; the labeling of labels.method
FIXED = {
    "raw": "passes / rollouts, the soft estimate of the paper",
    "soft": "mean of the Beta posterior: raw drawn to the prior where rollouts are few",
    "hard": "1 where any rollout passed, else 0 (Math-Shepherd's hard estimate)",
    "smoothing": "raw labels moved towards one half",
    "gce": "raw labels under the generalized cross-entropy",
    "beta_shrink": "posterior mean under a Beta prior fitted to all steps",
    "em": "P(recoverable) by the change-point EM over the first fatal step",
    "undetected_fault": "P(recoverable) by the undetected-fault EM: as em, for weak tests and completers that repair",
    "closure": "1 where the program, a rollout of the step or one of a later step passed, else 0",
    "raw_with_outcome": "raw with the program itself as one more rollout of each of its prefixes",
    "closure_mixture": "mean of closure and raw_with_outcome",
    "outcome": "the program's outcome at every step (arXiv 2604.13197)",
    "scan": "SCAN's noise-tolerant labels (arXiv 2509.16548)",
    "value": "chance that a completion passes, by the value model: from all counts of a program together",
    "calibrator": "logistic regression from the step's features to clean labels, where some steps have them",
    "clean": "the exact truth (procedural benchmark), or clean labels from a file: the oracle",
    "stored": "labels of an earlier run or of another tool, from a file",
}
# Inferred in every training step, with the model as prior (``training.online_label_inference``).
ONLINE = {"undetected_fault_online": "undetected_fault, whose hazards are those of the reward model in training"}
# Labelings for steps whose labels come without rollout counts (`dreamprm train --steps`).
WITHOUT_COUNTS = ("raw", "gce", "smoothing", "label_table", "weight_table")
# Labelings that need only counts and outcomes.
WITH_COUNTS = (
    "soft", "hard", "beta_shrink", "em", "undetected_fault", "closure", "raw_with_outcome", "closure_mixture",
    "outcome", "scan", "undetected_fault_online", "table_on_em",
)  # fmt: skip
# Labelings learned by the outer problem -> the fixed labeling of the warm-up and of the initial table.
LEARNED = {"label_table": "raw", "weight_table": "raw", "corrector_net": "raw", "table_on_em": "em"}


@dataclass(frozen=True)
class LabelSource:
    """The inputs of labelings. ``steps`` are the noisy steps, in the order of the label table."""

    labels: Sequence[StepLabel]  # all steps, including last ones
    outcomes: Mapping[str, Outcome]  # by program hash
    clean: Mapping[StepKey, float] = field(default_factory=lambda: MappingProxyType({}))
    clean_problems: int = 50  # number of problems whose clean labels the calibrator is fitted to

    @functools.cached_property
    def steps(self) -> list[StepLabel]:
        """``noisy_steps`` of the labels."""
        return noisy_steps(self.labels)

    def code(self, program_hash: str) -> int:
        """The outcome code of a program."""
        outcome = self.outcomes.get(program_hash)
        return outcome_code(outcome.verdict if outcome else None)


class GivenStep(NamedTuple):
    """A step with a given label. It replaces a ``StepLabel`` for the labelings that need no counts."""

    problem_id: str
    program_hash: str
    step_index: int
    mean: float


@dataclass(frozen=True)
class GivenLabels(LabelSource):
    """Given labels from another source. All of them are noisy, including those of last steps."""

    @functools.cached_property
    def steps(self) -> list[StepLabel]:
        """All labels."""
        return list(self.labels)


def counted_step(key: StepKey, passes: int, rollouts: int, policy: str) -> StepLabel:
    """A row of the label stage for given counts, without provenance."""
    return StepLabel(
        *key,
        start=0,
        end=0,
        passes=passes,
        rollouts=rollouts,
        infrastructure_errors=0,
        unforced=0,
        posterior_alpha=1.0 + passes,
        posterior_beta=1.0 + rollouts - passes,
        policy=policy,
        sampling="{}",
        mode="faithful",
        tier="PORTABLE",
        config_hash="",
    )


def noisy_steps(labels: Sequence[StepLabel]) -> list[StepLabel]:
    """Every step except the last of each program, whose label is the program's exact outcome and not an estimate.

    The steps of a program are consecutive and in order.
    """
    programs: dict[tuple[str, str], list[StepLabel]] = {}
    for row in labels:
        programs.setdefault((row.problem_id, row.program_hash), []).append(row)
    return [row for rows in programs.values() for row in sorted(rows, key=lambda row: row.step_index)[:-1]]


def step_key(row: StepLabel | CorrectedLabel) -> StepKey:
    """The key of a step in all files."""
    return row.problem_id, row.program_hash, row.step_index


def fixed_labels(name: str, source: LabelSource, settings: LabelsConfig) -> Float[np.ndarray, " n"]:
    """The labels of ``source.steps`` in [0, 1]; NaN for steps without a label.

    For steps without rollouts, ``raw``, ``gce``, ``smoothing`` and ``hard`` return NaN, and ``soft`` and
    ``beta_shrink`` return the prior mean. The other labelings also use the outcome, other steps or given labels, and
    can therefore label most of these steps.

    Raises:
      DataError: if the name is unknown, or if clean or stored labels are required and missing.
    """
    steps = source.steps
    raw = np.array([row.mean for row in steps], float)
    if not len(steps) or name in ("raw", "gce"):
        return raw
    if name == "smoothing":
        return smoothing(raw, settings.smoothing)
    passes, rollouts = _counts(steps)
    if name == "soft":
        return np.array([row.posterior_alpha / (row.posterior_alpha + row.posterior_beta) for row in steps])
    if name == "hard":
        return np.where(rollouts > 0, passes > 0, np.nan).astype(float)
    if name == "beta_shrink":
        return beta_shrink(passes, rollouts)
    if name == "em":
        return em_labels(source)
    if name == "undetected_fault":
        return undetected_fault_labels(source)
    if name in ("closure", "raw_with_outcome", "closure_mixture", "outcome", "scan"):
        return _with_outcomes(name, source)
    if name == "value":
        return value_labels(source)
    if name == "calibrator":
        return _calibrated(source)
    if name == "clean":
        _require(source.clean, "clean", "config.train.labels.clean_labels")
        return np.array([source.clean.get(step_key(row), np.nan) for row in steps])
    if name == "stored":
        if not settings.stored:
            raise DataError("config.train.labels.stored: labeling 'stored' needs a Parquet file of CorrectedLabel rows")
        stored = read_labels(Path(settings.stored))
        values_ = np.array([stored.get(step_key(row), np.nan) for row in steps])
        if not np.isfinite(values_).any():
            raise DataError(f"{settings.stored}: none of its rows is a step of this run's training programs")
        return values_
    raise DataError(f"no fixed labeling {name!r}; choose among {', '.join(FIXED)}")


def read_labels(path: Path) -> dict[StepKey, float]:
    """The ``corrected`` column of a Parquet file of ``CorrectedLabel`` rows, by step.

    Raises:
      DataError: if a label is not in [0, 1] or a step occurs twice, naming file and row.
    """
    labels: dict[StepKey, float] = {}
    for number, row in enumerate(read_records(path, CorrectedLabel)):
        if np.isnan(row.corrected):
            continue
        if not 0.0 <= row.corrected <= 1.0:
            raise DataError(f"{path}, row {number}: corrected={row.corrected}: a label must be in [0, 1]")
        if step_key(row) in labels:
            raise DataError(f"{path}, row {number}: a second label of step {row.step_index} of {row.program_hash}")
        labels[step_key(row)] = row.corrected
    return labels


class _Counts(NamedTuple):
    """All labels of a source, sorted into the arrays that the inference functions take."""

    rows: list[StepLabel]
    passes: Int[np.ndarray, " rows"]
    rollouts: Int[np.ndarray, " rows"]
    program: Int[np.ndarray, " rows"]
    outcome: Int[np.ndarray, " programs"]
    group: Int[np.ndarray, " programs"]  # the problem of each program

    @classmethod
    def of(cls, source: LabelSource) -> _Counts:
        """Reads the label stage's rows."""
        rows = sorted(source.labels, key=step_key)
        number = {key: index for index, key in enumerate(dict.fromkeys(step_key(row)[:2] for row in rows))}
        problems = {name: index for index, name in enumerate(dict.fromkeys(problem for problem, _ in number))}
        return cls(
            rows,
            *_counts(rows),
            np.array([number[step_key(row)[:2]] for row in rows], int),
            np.array([source.code(name) for _, name in number], int),
            np.array([problems[problem] for problem, _ in number], int),
        )

    @property
    def last(self) -> Bool[np.ndarray, " rows"]:
        """Marks the last row of each program, which is the program itself."""
        return np.diff(self.program, append=-1) != 0

    def in_order(self, source: LabelSource, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " n"]:
        """The values of ``source.steps``, in the order of the label table."""
        by_key = dict(zip(map(step_key, self.rows), values, strict=True))
        return np.array([by_key[step_key(row)] for row in source.steps])


def em_labels(source: LabelSource) -> Float[np.ndarray, " n"]:
    """P(recoverable) of ``source.steps`` by the change-point EM. The programs of a problem share a pass rate.

    The count of a last step is the program's outcome. It constrains the EM and is not a sample of a pass rate.
    """
    counts = _Counts.of(source)
    passes, rollouts = (np.where(counts.last, 0, column) for column in (counts.passes, counts.rollouts))
    found = change_point_em(passes, rollouts, counts.program, counts.outcome, counts.group)
    return counts.in_order(source, found.recoverable)


def undetected_fault_labels(source: LabelSource) -> Float[np.ndarray, " n"]:
    """P(recoverable) of ``source.steps`` by the undetected-fault EM."""
    counts, found = _faults(source)
    return counts.in_order(source, found.recoverable)


def fault_evidence(source: LabelSource) -> tuple[Float[np.ndarray, " n"], float]:
    """The inputs of online label inference: the evidence of each of ``source.steps``, and q."""
    counts, found = _faults(source)
    return counts.in_order(source, found.evidence), found.hidden


def _faults(source: LabelSource) -> tuple[_Counts, Faults]:
    counts = _Counts.of(source)
    return counts, fault_em(*counts[1:])


def value_labels(source: LabelSource) -> Float[np.ndarray, " n"]:
    """The probability that a completion of each of ``source.steps`` passes, by the value model."""
    counts = _Counts.of(source)
    # The model includes the program itself. If the program was also counted as a rollout, that rollout is removed.
    own = counts.outcome[counts.program]
    twice = (own != UNKNOWN) & np.array([row.strategy.endswith("+program") for row in counts.rows], bool) & ~counts.last
    inner = [row for row in counts.rows if row.asked]
    ratio = single_ratio(
        passes=sum(row.passes for row in inner),
        rollouts=sum(row.rollouts for row in inner),
        singles=sum(row.singles for row in inner),
        single_passes=sum(row.single_passes for row in inner),
        unjudged=sum(row.unjudged for row in inner),
    )
    found = value_em(
        counts.passes - twice * (own == PASSED),
        counts.rollouts - twice,
        counts.program,
        counts.outcome,
        np.array([row.unjudged for row in counts.rows], int),
        ratio,
    )
    return counts.in_order(source, found.value)


def _with_outcomes(name: str, source: LabelSource) -> Float[np.ndarray, " n"]:
    """The rules that use counts and outcomes; unknown outcomes are ignored."""
    counts = _Counts.of(source)
    arrays = counts.passes, counts.rollouts, counts.program, counts.outcome
    own = counts.outcome[counts.program]
    known = own != UNKNOWN
    with np.errstate(invalid="ignore"):
        soft = (counts.passes + np.where(known, own, 0)) / (counts.rollouts + known)
    if name == "raw_with_outcome":
        values = soft
    elif name == "outcome":
        values = np.where(known, own, np.nan)
    elif name == "scan":
        values = scan(*arrays)
    else:
        values = closure(*arrays)
        if name == "closure_mixture":
            values = (values + soft) / 2
    return counts.in_order(source, values)


def step_features(source: LabelSource) -> Float[np.ndarray, "n F"]:
    """Features of ``source.steps``: posterior mean, log rollouts, EM label, outcome, position, log number of steps."""
    steps, inferred = source.steps, em_labels(source)
    length: dict[tuple[str, str], int] = {}
    for row in source.labels:
        key = (row.problem_id, row.program_hash)
        length[key] = max(row.step_index + 1, length.get(key, 0))
    outcome = {PASSED: 1.0, FAILED: 0.0, UNKNOWN: 0.5}
    return np.array(
        [
            (
                row.posterior_alpha / (row.posterior_alpha + row.posterior_beta),
                np.log1p(row.rollouts),
                label,
                outcome[source.code(row.program_hash)],
                (row.step_index + 1) / length[row.problem_id, row.program_hash],
                np.log(length[row.problem_id, row.program_hash]),
            )
            for row, label in zip(steps, inferred, strict=True)
        ],
        float,
    ).reshape(len(steps), 6)


def _calibrated(source: LabelSource) -> Float[np.ndarray, " n"]:
    _require(source.clean, "calibrator", "config.train.labels.clean_labels")
    features = step_features(source)
    with_clean = dict.fromkeys(row.problem_id for row in source.steps if step_key(row) in source.clean)
    first = set(list(with_clean)[: source.clean_problems])
    clean = np.array([source.clean.get(step_key(row), np.nan) for row in source.steps])
    known = np.isfinite(clean) & np.array([row.problem_id in first for row in source.steps])
    if not known.any():
        raise DataError("calibrator: no clean label belongs to a step of this run's training programs")
    return fit_calibrator(features[known], clean[known])(features)


def _require(clean: Mapping[StepKey, float], name: str, field_name: str) -> None:
    if not clean:
        raise DataError(
            f"{field_name}: labeling {name!r} needs clean step labels: a Parquet file of CorrectedLabel rows"
        )


def _counts(rows: Sequence[StepLabel]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    return np.array([row.passes for row in rows], int), np.array([row.rollouts for row in rows], int)
