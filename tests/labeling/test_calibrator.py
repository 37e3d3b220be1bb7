"""The logistic calibrator."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dreamprm_jax.labeling.correction.calibrator import fit_calibrator
from dreamprm_jax.schema import DataError


def test_it_is_ridge_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, -1.0]
    labels = (rng.random(300) < 1 / (1 + np.exp(-(features[:, 0] - 0.2 * features[:, 1] + 1)))).astype(float)
    fitted = fit_calibrator(features, labels, ridge=0.5)
    standardized = (features - features.mean(0)) / features.std(0)
    reference = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000).fit(standardized, labels)
    np.testing.assert_allclose(fitted(features), reference.predict_proba(standardized)[:, 1], atol=1e-5)
    assert fitted(features).mean() == pytest.approx(labels.mean(), abs=1e-6)


def test_hard_cases_have_solutions() -> None:
    separable = fit_calibrator(np.array([[0.0], [1.0]] * 5), np.array([0.0, 1.0] * 5))
    assert 0.5 < separable(np.array([[1.0]]))[0] < 1.0
    alike = fit_calibrator(np.ones((4, 2)), np.ones(4))
    assert alike(np.ones((1, 2)))[0] > 0.99
    soft = fit_calibrator(np.zeros((3, 1)), np.array([0.2, 0.3, 0.4]))
    assert soft(np.zeros((1, 1)))[0] == pytest.approx(0.3, abs=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match=r"features \(2, 1\) and labels \(3,\)"):
        fit_calibrator(np.zeros((2, 1)), np.zeros(3))
    with pytest.raises(DataError, match=r"labels must be in \[0, 1\]"):
        fit_calibrator(np.zeros((1, 1)), np.full(1, np.nan))
    with pytest.raises(DataError, match="ridge=0"):
        fit_calibrator(np.zeros((1, 1)), np.zeros(1), ridge=0)
