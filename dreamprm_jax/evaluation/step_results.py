"""Compares step scores and step labels with the exact truth of the procedural benchmark.

There are three targets, because a Monte-Carlo label measures recoverability under a policy instead of correctness
(arXiv 2501.07301): ``recoverable`` (some completion of the prefix passes), *before the first error* (no step so far is
a wrong variant) and ``value`` (the probability that the policy's completion passes). The metric of the first two is
AUROC, and the metrics of the last are Brier score and expected calibration error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.program_metrics import STEP_BOOTSTRAP
from dreamprm_jax.labeling.correction.methods import noisy_steps
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.metrics.statistics import percentile_interval
from dreamprm_jax.metrics.step_metrics import (
    auroc,
    auroc_replicates,
    average_precision,
    brier,
    expected_calibration_error,
    first_error_f1,
    predicted_first_errors,
    reliability_bins,
    spearman,
)
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, Skip, StepLabel, StepTruth
from dreamprm_jax.selection.aggregators import sigmoid
from dreamprm_jax.selection.reward_models import BASELINE_ARM, arm_label
from dreamprm_jax.storage import read_json, read_records

POSITION = "position"
TARGETS = ("recoverable", "before_error")


@dataclass(frozen=True)
class StepRows:
    """M steps with their truth, and the numbers to evaluate against it."""

    problem: np.ndarray  # (M,) index of the step's problem
    problems: int
    program: np.ndarray  # (M,) index of the step's program
    step: np.ndarray  # (M,) index within the program
    recoverable: np.ndarray  # (M,) bool
    before_error: np.ndarray  # (M,) bool: no wrong variant up to and including this step
    value: np.ndarray  # (M,)
    first_wrong: np.ndarray  # (programs,) index of the first wrong step, -1 if none
    numbers: Mapping[str, np.ndarray]  # (M,) each, probabilities


def _index(truth: Sequence[StepTruth]) -> dict[tuple[str, str], list[StepTruth]]:
    programs: dict[tuple[str, str], dict[int, StepTruth]] = {}
    for row in truth:
        programs.setdefault((row.problem_id, row.program_hash), {})[row.step_index] = row
    return {key: [rows[index] for index in sorted(rows)] for key, rows in programs.items()}


def _rows(programs: Sequence[tuple[list[StepTruth], dict[str, np.ndarray]]]) -> StepRows:
    """Stacks programs: the truth of some steps of each, and the numbers of those steps."""
    truth = [row for rows, _ in programs for row in rows]
    names = {problem: index for index, problem in enumerate(dict.fromkeys(row.problem_id for row in truth))}
    step = np.array([row.step_index for row in truth], dtype=int)
    first_wrong = np.array([row.first_wrong for row in truth], dtype=int)
    return StepRows(
        problem=np.array([names[row.problem_id] for row in truth], dtype=int),
        problems=len(names),
        program=np.repeat(np.arange(len(programs)), [len(rows) for rows, _ in programs]),
        step=step,
        recoverable=np.array([row.recoverable for row in truth], dtype=bool),
        before_error=(first_wrong < 0) | (step < first_wrong),
        value=np.array([row.value for row in truth], dtype=float),
        first_wrong=np.array([rows[0].first_wrong for rows, _ in programs], dtype=int),
        numbers={
            name: np.concatenate([numbers[name] for _, numbers in programs])
            for name in (programs[0][1] if programs else ())
        },
    )


def score_rows(
    candidates: Sequence[Candidates], arms: Sequence[str], truth: Sequence[StepTruth], skips: list[Skip]
) -> StepRows:
    """Steps of the test programs that every arm scored, each program once.

    Programs without truth, without a score of some arm, or with a different number of steps than their truth are added
    to ``skips``.
    """
    index = _index(truth)
    programs = []
    for one in candidates:
        seen = set()
        for position, program in enumerate(one.programs):
            if program.program_hash in seen:
                continue
            seen.add(program.program_hash)
            rows = index.get((program.problem_id, program.program_hash))
            scores = {arm: sigmoid(one.logits[arm][position]) for arm in arms}
            lengths = {arm: len(values) for arm, values in scores.items()}
            if rows is None:
                skips.append(Skip("truth_test", f"{program.problem_id} {program.program_hash[:12]}", "no truth"))
            elif any(length != len(rows) for length in lengths.values()):
                reason = f"{len(rows)} steps in the truth, scored: {lengths}"
                skips.append(Skip("truth_test", f"{program.problem_id} {program.program_hash[:12]}", reason))
            else:
                programs.append((rows, scores))
    return _rows(programs)


def label_rows(
    labels: Sequence[StepLabel],
    corrected: Mapping[str, Sequence[CorrectedLabel]],
    truth: Sequence[StepTruth],
    skips: list[Skip],
) -> StepRows:
    """Labeled training steps with their raw estimate and the label of each arm that changed labels.

    Last steps are excluded (``noisy_steps``). Steps without judged rollouts, without truth or without a label of some
    arm are added to ``skips``, so that all columns cover the same steps.

    Args:
      labels: The Monte-Carlo estimates.
      corrected: Arm -> its labels; an arm without labels has no column.
      truth: Truth of the same window.
      skips: Receives the steps that are left out.
    """
    changed = {
        arm: {(row.problem_id, row.program_hash, row.step_index): row.corrected for row in rows}
        for arm, rows in corrected.items()
        if rows
    }
    index = {(row.problem_id, row.program_hash, row.step_index): row for row in truth}
    kept: dict[tuple[str, str], list[tuple[StepTruth, dict[str, float]]]] = {}
    for row in noisy_steps(labels):
        key = (row.problem_id, row.program_hash, row.step_index)
        name = f"{row.problem_id} {row.program_hash[:12]} step {row.step_index}"
        without = [arm for arm, values in changed.items() if key not in values]
        if not row.rollouts:
            skips.append(Skip("step_labels", name, "no judged rollout"))
        elif key not in index:
            skips.append(Skip("truth_train", name, "no truth"))
        elif without:
            skips.append(Skip("corrected_labels", name, f"no label from {', '.join(without)}"))
        else:
            numbers = {"raw": row.mean, **{arm: values[key] for arm, values in changed.items()}}
            kept.setdefault(key[:2], []).append((index[key], numbers))
    programs = []
    for steps in kept.values():
        steps.sort(key=lambda step: step[0].step_index)
        names = steps[0][1]
        programs.append(([row for row, _ in steps], {name: np.array([n[name] for _, n in steps]) for name in names}))
    return _rows(programs)


def _ranking(rows: StepRows, numbers: Mapping[str, np.ndarray], baseline: str, samples: int, seed: int) -> list[dict]:
    """AUROC of each column for each target, with intervals, and the paired difference from the baseline column."""
    replicates = {
        (name, target): auroc_replicates(
            values, getattr(rows, target), rows.problem, rows.problems, min(samples, STEP_BOOTSTRAP), seed
        )
        for name, values in numbers.items()
        for target in TARGETS
    }
    table = []
    for name, values in numbers.items():
        row: dict[str, Any] = {"key": name}
        for target in TARGETS:
            estimate = auroc(values, getattr(rows, target))
            row[f"auroc_{target}"] = asdict(percentile_interval(estimate, replicates[name, target]))
            if baseline in numbers and name not in (baseline, POSITION):
                difference = replicates[name, target] - replicates[baseline, target]
                gap = estimate - auroc(numbers[baseline], getattr(rows, target))
                row[f"auroc_{target}_minus_raw"] = asdict(percentile_interval(gap, difference))
        table.append(row)
    return table


def _calibration(values: np.ndarray, rows: StepRows) -> dict[str, Any]:
    return {
        "average_precision_recoverable": average_precision(values, rows.recoverable),
        "brier_value": brier(values, rows.value),
        "brier_recoverable": brier(values, rows.recoverable),
        "ece_value": expected_calibration_error(values, rows.value),
        "spearman_value": spearman(values, rows.value),
        "reliability": [asdict(one) for one in reliability_bins(values, rows.value)],
    }


def _counts(rows: StepRows) -> dict[str, Any]:
    return {
        "problems": rows.problems,
        "programs": len(rows.first_wrong),
        "steps": len(rows.step),
        "share_recoverable": float(rows.recoverable.mean()),
        "share_before_error": float(rows.before_error.mean()),
        "mean_value": float(rows.value.mean()),
    }


def _first_error(values: np.ndarray, rows: StepRows) -> dict[str, Any]:
    """First-error F1 at threshold 0.5, and at the threshold that is best on the other half of the problems."""
    ends = np.cumsum(np.bincount(rows.program))[:-1]
    scores = np.split(values, ends)
    fold = np.array([part[0] for part in np.split(rows.problem, ends)]) % 2
    predicted = np.full(len(scores), -1)
    for half in (0, 1):
        other, own = np.flatnonzero(fold != half), np.flatnonzero(fold == half)
        grid = np.unique(np.quantile(values, np.linspace(0.02, 0.98, 49)))
        quality = [
            first_error_f1(predicted_first_errors([scores[i] for i in other], t), rows.first_wrong[other]).f1
            for t in grid
        ]
        best = grid[int(np.argmax(np.nan_to_num(quality)))]
        predicted[own] = predicted_first_errors([scores[i] for i in own], best)
    return {
        "first_error_at_half": asdict(first_error_f1(predicted_first_errors(scores, 0.5), rows.first_wrong)),
        "first_error_cross_fitted": asdict(first_error_f1(predicted, rows.first_wrong)),
    }


def step_results(rows: StepRows, arms: Sequence[str], samples: int, seed: int) -> dict[str, Any]:
    """Step metrics of each arm, and of the position baseline: later steps are less often recoverable."""
    numbers = {**rows.numbers, POSITION: -rows.step.astype(float)}
    table = _ranking(rows, numbers, BASELINE_ARM, samples, seed)
    for row in table:
        row["label"] = "step position alone" if row["key"] == POSITION else arm_label(row["key"])
        if row["key"] in arms:
            row |= _calibration(numbers[row["key"]], rows) | _first_error(numbers[row["key"]], rows)
    return {"counts": _counts(rows), "table": table}


def label_results(rows: StepRows, samples: int, seed: int) -> dict[str, Any]:
    """Quality of the raw training labels and of each arm's labels."""
    table = _ranking(rows, rows.numbers, "raw", samples, seed)
    for row in table:
        row["label"] = f"{row['key'].replace('_', ' ')} labels"
        row |= _calibration(rows.numbers[row["key"]], rows)
    return {"counts": _counts(rows), "table": table}


def truth_results(
    config: Config, paths: Paths, candidates: Sequence[Candidates], skips: list[Skip], notes: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Step metrics and label metrics; None, with a note, if there is nothing to compare."""
    if reason := why_no_truth(config):
        notes.append(f"no step or label metrics: {reason}")
        return None, None
    steps = labels = None
    samples, seed = config.evaluate.bootstrap_samples, config.seed
    scored = score_rows(candidates, config.train.arms, load_truth(config, paths, "test"), skips)
    if len(scored.step):
        steps = step_results(scored, config.train.arms, samples, seed)
    else:
        notes.append("no step metrics: no test program has both its truth and a score from every arm")
    corrected = read_corrected(config, paths)
    if not corrected:
        notes.append("no corrected labels: no arm corrects labels, or it wrote none; only raw labels are evaluated")
    raw = read_records(paths.step_labels(), StepLabel)
    labeled = label_rows(raw, corrected, load_truth(config, paths, "train"), skips)
    if len(labeled.step):
        labels = label_results(labeled, samples, seed)
    else:
        notes.append("no label metrics: no labeled training step has its truth")
    return steps, labels


def with_exact_log_probabilities(config: Config, paths: Paths, candidates: Sequence[Candidates]) -> list[Candidates]:
    """Adds the log-probabilities with which the simulated policy sampled its candidates."""
    from dreamprm_jax.policy.simulated import exact_log_probability
    from dreamprm_jax.problems.procedural.compose import Composition

    known = {row["problem_id"]: Composition.from_json(row) for row in read_json(paths.compositions())}

    def exact(one: Candidates) -> np.ndarray | None:
        composition, scale = known[one.problem.problem_id], config.policy.wrong_rate_scale
        values = np.array([exact_log_probability(composition, program.code, scale) for program in one.programs])
        return None if np.isnan(values).all() else values  # candidates from a file, of another policy

    return [dataclasses.replace(one, exact_log_probability=exact(one)) for one in candidates]


def read_corrected(config: Config, paths: Paths) -> dict[str, list[CorrectedLabel]]:
    """Arm -> the labels that it trained on, for each arm that changed them."""
    arms = [arm for arm in config.train.arms if paths.corrected_labels(arm).exists()]
    rows = {arm: read_records(paths.corrected_labels(arm), CorrectedLabel) for arm in arms}
    return {arm: labels for arm, labels in rows.items() if labels}
