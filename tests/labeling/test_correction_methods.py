"""Tests each labeling method by its name, on rows of the label stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.correction.change_point import change_point_em
from dreamprm_jax.labeling.correction.methods import (
    FIXED,
    LabelSource,
    counted_step,
    fixed_labels,
    read_labels,
    step_features,
    step_key,
)
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, StepLabel, Verdict
from dreamprm_jax.storage import write_records

SETTINGS = LabelsConfig()


def row(program: str, step: int, passes: int, rollouts: int) -> StepLabel:
    return counted_step((f"problem-{program[0]}", program, step), passes, rollouts, "synthetic")


def verdict(program: str, value: Verdict) -> Outcome:
    return Outcome(f"problem-{program[0]}", program, value, 0, 1, "", 0.0, "faithful", "PORTABLE")


@pytest.fixture(scope="module")
def source() -> LabelSource:
    """A passed program, a failed one with an inner step without rollouts, and one without a verdict. Shuffled rows."""
    counts = {"a1": [(4, 4), (3, 4), (1, 1)], "a2": [(2, 4), (0, 4), (0, 0), (0, 1)], "b1": [(1, 4), (0, 0)]}
    rows = [row(name, step, *pair) for name, pairs in counts.items() for step, pair in enumerate(pairs)]
    outcomes = {
        "a1": verdict("a1", Verdict.AC),
        "a2": verdict("a2", Verdict.WA),
        "b1": verdict("b1", Verdict.SANDBOX_ERROR),
    }
    order = np.random.default_rng(0).permutation(len(rows))
    return LabelSource([rows[index] for index in order], outcomes)


def by_step(source: LabelSource, values: np.ndarray) -> dict[tuple[str, int], float]:
    return {
        (step.program_hash, step.step_index): round(float(value), 6)
        for step, value in zip(source.steps, values, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "first", "second", "empty"),
    [
        ("raw", 0.5, 0.0, None),
        ("gce", 0.5, 0.0, None),
        ("soft", 0.5, 1 / 6, 0.5),
        ("hard", 1.0, 0.0, None),
        ("smoothing", 0.5, 0.05, None),
        ("raw_with_outcome", 0.4, 0.0, 0.0),
        ("outcome", 0.0, 0.0, 0.0),
        ("closure", 1.0, 0.0, 0.0),
        ("closure_mixture", 0.7, 0.0, 0.0),
        ("scan", 1.0, 0.0, 0.0),
    ],
)
def test_closed_forms(source, name, first, second, empty):
    values = by_step(source, fixed_labels(name, source, SETTINGS))
    assert len(values) == 6  # the last steps of the three programs are omitted
    assert values["a2", 0] == pytest.approx(first, abs=1e-6)
    assert values["a2", 1] == pytest.approx(second, abs=1e-6)
    assert np.isnan(values["a2", 2]) if empty is None else values["a2", 2] == pytest.approx(empty)


def test_em_infers_steps_without_rollouts_and_takes_outcomes_as_exact(source):
    values = by_step(source, fixed_labels("em", source, SETTINGS))
    assert values["a1", 0] == values["a1", 1] == values["a2", 0] == 1.0
    assert 0.0 < values["a2", 2] < values["a2", 1] < 0.5
    # equals the EM on arrays; the count of a last step adds no evidence to the outcome
    counts = [(4, 4), (3, 4), (0, 0), (2, 4), (0, 4), (0, 0), (0, 0), (1, 4), (0, 0)]
    passes, rollouts = (np.array(column) for column in zip(*counts, strict=True))
    program = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    direct = change_point_em(passes, rollouts, program, np.array([1, 0, -1]), np.array([0, 0, 1])).recoverable
    assert [values[key] for key in sorted(values)] == pytest.approx(direct[[0, 1, 3, 4, 5, 7]], abs=1e-6)


def test_the_rules_go_without_an_outcome_that_is_unknown(source):
    for name, expected in (("raw_with_outcome", 0.25), ("outcome", np.nan), ("closure", 1.0)):
        values = by_step(source, fixed_labels(name, source, SETTINGS))
        np.testing.assert_allclose(values["b1", 0], expected)
        np.testing.assert_allclose(values["a1", 1], 0.8 if name == "raw_with_outcome" else 1.0)


def test_value_model_labels_every_step(source):
    values = by_step(source, fixed_labels("value", source, SETTINGS))
    assert values["a1", 0] <= values["a1", 1] <= 1.0  # in a passed program, later steps are more likely to pass
    assert 0.0 < values["a2", 2] < values["a2", 0] < 1.0
    assert values["a2", 2] < 0.5  # has no rollouts


def test_clean_labels_and_the_calibrator(source):
    truth = {step_key(step): 1.0 - 0.3 * step.step_index for step in source.steps if step.program_hash != "b1"}
    clean = dataclasses.replace(source, clean=truth)
    values = by_step(clean, fixed_labels("clean", clean, SETTINGS))
    assert values["a1", 1] == pytest.approx(0.7)
    assert np.isnan(values["b1", 0])
    fitted = by_step(clean, fixed_labels("calibrator", clean, SETTINGS))
    assert fitted["a1", 0] > fitted["a2", 0] > fitted["a2", 1] > fitted["a2", 2] > 0.0
    assert 0.0 < fitted["b1", 0] < 1.0  # the step has no clean label
    assert step_features(clean).shape == (6, 6)
    elsewhere = dataclasses.replace(source, clean={("q", "x", 0): 1.0})
    with pytest.raises(DataError, match="no clean label belongs"):
        fixed_labels("calibrator", elsewhere, SETTINGS)
    for name in ("clean", "calibrator"):
        with pytest.raises(DataError, match=f"'{name}' needs clean step labels"):
            fixed_labels(name, source, SETTINGS)


def test_stored_labels_come_back(source, tmp_path):
    raw = fixed_labels("beta_shrink", source, SETTINGS)
    path = tmp_path / "labels.parquet"
    rows = [
        CorrectedLabel(*step_key(step), step.mean, float(value), "beta_shrink")
        for step, value in zip(source.steps, raw, strict=True)
    ]
    write_records(path, CorrectedLabel, rows)
    settings = dataclasses.replace(SETTINGS, stored=str(path))
    np.testing.assert_array_equal(fixed_labels("stored", source, settings), raw)
    write_records(path, CorrectedLabel, [dataclasses.replace(rows[0], corrected=1.5)])
    with pytest.raises(DataError, match=r"labels.parquet, row 0: corrected=1.5: a label must be in \[0, 1\]"):
        read_labels(path)
    write_records(path, CorrectedLabel, [rows[0], rows[0]])
    with pytest.raises(DataError, match="row 1: a second label of step"):
        read_labels(path)
    write_records(path, CorrectedLabel, [dataclasses.replace(rows[0], program_hash="elsewhere")])
    with pytest.raises(DataError, match="none of its rows is a step"):
        fixed_labels("stored", source, settings)
    with pytest.raises(DataError, match=r"config.train.labels.stored: labeling 'stored' needs"):
        fixed_labels("stored", source, SETTINGS)


def test_every_name_is_known(source):
    with pytest.raises(DataError, match="no fixed labeling 'magic'; choose among raw, soft"):
        fixed_labels("magic", source, SETTINGS)
    for name in FIXED:
        nothing = LabelSource([], {}, clean={("q", "x", 0): 1.0})
        assert fixed_labels(name, nothing, SETTINGS).shape == (0,)
