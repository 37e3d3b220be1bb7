"""The metrics of step scores on held-out labels, in cases with known values."""

import math

import numpy as np
import pytest

from dreamprm_jax.labeling.step_files import LabeledSteps
from dreamprm_jax.scoring.scorer import Reading
from dreamprm_jax.scoring.step_figures import evaluate_steps, figures_table, position_figures

NAN = math.nan


def solution(number, *labels):
    return LabeledSteps(f"p{number}", tuple("abc"[: len(labels)]), labels)


def test_figures_of_known_cases():
    rows = [
        (solution(0, 1.0, 0.0, NAN), np.array([0.9, 0.2, 0.9])),  # the first error is predicted
        (solution(1, 1.0, 0.0), np.array([0.4, 0.3])),  # the step before it is predicted
        (solution(2, 1.0, 1.0), np.array([0.8, 0.7])),  # no error is predicted
        (solution(3, NAN, 0.0), np.array([0.1, 0.1])),  # the position of the first error is unknown
    ]
    found = evaluate_steps("x", rows)
    assert (found.solutions, found.steps) == (4, 7)
    positive, negative = [0.9, 0.4, 0.8, 0.7], [0.2, 0.3, 0.1]
    assert found.auroc.estimate == 1.0 == np.mean([p > n for p in positive for n in negative])
    assert (found.accuracy_erroneous, found.accuracy_correct) == (0.5, 1.0)
    assert found.first_error_f1 == pytest.approx(2 / 3)
    assert found.brier == pytest.approx(np.mean([(1 - p) ** 2 for p in positive] + [n**2 for n in negative]))
    assert np.isnan(found.auroc.low)  # four problems are too few for an interval
    assert "—" in figures_table([found]) or "-" in figures_table([found])


def test_many_problems_have_an_interval_and_one_class_has_no_figure():
    rng = np.random.default_rng(0)
    rows = [(solution(n, 1.0, float(n % 2)), rng.uniform(size=2)) for n in range(40)]
    found = evaluate_steps("x", rows)
    assert found.auroc.low < found.auroc.estimate < found.auroc.high
    right = evaluate_steps("x", [(solution(n, 1.0, 1.0), rng.uniform(size=2)) for n in range(40)])
    assert np.isnan([right.auroc.estimate, right.first_error_f1]).all()
    read = [(one, Reading(np.zeros(2), np.zeros(2))) for one, _ in rows]
    assert position_figures(read).auroc.estimate > 0.5
    assert np.isnan(position_figures(read).brier)
