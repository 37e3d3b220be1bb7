"""Metrics of step scores against the step labels of held-out solutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.step_files import LabeledSteps
from dreamprm_jax.metrics.statistics import Interval, percentile_interval
from dreamprm_jax.metrics.step_metrics import auroc, auroc_replicates, brier, first_error_f1, predicted_first_errors
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.selection.aggregators import sigmoid
from dreamprm_jax.tables import LEAST_PROBLEMS, Table, finite, interval, number

SAMPLES = 2000  # number of bootstrap resamples of the problems
MOST_PROBLEMS = 3000  # no interval for more problems, because its cost is quadratic in their number


@dataclass(frozen=True)
class StepFigures:
    """Metrics of step scores as classifiers of right and wrong steps. NaN if one of the two classes is empty."""

    name: str
    solutions: int
    steps: int
    auroc: Interval  # 95% over problems; ends NaN with fewer than LEAST_PROBLEMS or more than MOST_PROBLEMS problems
    brier: float
    first_error_f1: float  # F1 of ProcessBench at threshold 0.5
    accuracy_erroneous: float
    accuracy_correct: float


def evaluate_steps(
    name: str, rows: Sequence[tuple[LabeledSteps, np.ndarray]], samples: int = SAMPLES, seed: int = 0
) -> StepFigures:
    """Computes the metrics of step scores in [0, 1] against the labels of their solutions."""
    known = [(one, scores, one.known) for one, scores in rows]
    values = np.concatenate([scores[index] for _, scores, index in known])
    labels = np.concatenate([np.asarray(one.labels)[index] for one, _, index in known])
    names = {one: place for place, one in enumerate(dict.fromkeys(one.problem_id for one, _ in rows))}
    problem = np.concatenate([np.full(len(index), names[one.problem_id]) for one, _, index in known])
    positive = labels >= 0.5
    ranking = Interval(auroc(values, positive), np.nan, np.nan)
    if LEAST_PROBLEMS <= len(names) <= MOST_PROBLEMS and np.isfinite(ranking.estimate):
        replicates = auroc_replicates(values, positive, problem, len(names), samples, seed)
        ranking = percentile_interval(ranking.estimate, replicates[np.isfinite(replicates)])
    # The first wrong step of solutions in which all earlier steps are labeled.
    wrong = [np.asarray(one.labels) < 0.5 for one, _ in rows]
    first = [int(np.argmax(row)) if row.any() else -1 for row in wrong]
    kept = [
        place
        for place, (one, _) in enumerate(rows)
        if np.isfinite(one.labels[: first[place]] if first[place] >= 0 else one.labels).all()
    ]
    f1 = first_error_f1(
        predicted_first_errors([rows[place][1] for place in kept], 0.5), np.asarray([first[place] for place in kept])
    )
    return StepFigures(
        name, len(rows), len(values), ranking, brier(values, labels), f1.f1, f1.accuracy_erroneous, f1.accuracy_correct
    )


def score_evaluation(
    model: DecoderConfig,
    mesh: jax.sharding.Mesh,
    params: Any,
    rows: Sequence[tuple[LabeledSteps, Reading]],
    config: Config,
    progress: Callable[[int], object] = lambda done: None,
) -> list[tuple[LabeledSteps, np.ndarray]]:
    """The step scores of the evaluation solutions, in [0, 1]. ``progress`` is as in ``Scorer.logits``."""
    scorer = Scorer(model, mesh, params, config.score.row_tokens, config.score.batch_tokens)
    logits = scorer.logits([reading for _, reading in rows], progress)
    return [(one, sigmoid(values)) for (one, _), values in zip(rows, logits, strict=True)]


def figures_table(figures: Sequence[StepFigures]) -> str:
    """The metrics as a text table."""
    first = figures[0]
    title = f"held-out step labels: {first.solutions} solutions, {first.steps} steps; 95% intervals over problems"
    header = ["model", "step AUROC", "interval", "Brier", "first-error F1", "erroneous", "correct"]
    rows = [
        [
            one.name,
            number(one.auroc.estimate),
            interval(finite(dataclasses.asdict(one.auroc))),
            *map(number, (one.brier, one.first_error_f1, one.accuracy_erroneous, one.accuracy_correct)),
        ]
        for one in figures
    ]
    return Table("steps", title, header, rows).text()


def position_figures(rows: Sequence[tuple[LabeledSteps, Reading]]) -> StepFigures:
    """The metrics of a baseline that uses only the position: later steps are more likely to be wrong."""
    places = [(one, 1.0 / (2.0 + np.arange(len(one.steps)))) for one, _ in rows]
    figures = evaluate_steps("position", places)
    nan = float("nan")
    return dataclasses.replace(figures, brier=nan, first_error_f1=nan, accuracy_erroneous=nan, accuracy_correct=nan)
