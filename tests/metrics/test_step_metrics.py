import numpy as np
import pytest
from sklearn import metrics

from dreamprm_jax.metrics.step_metrics import (
    auroc,
    auroc_replicates,
    average_precision,
    brier,
    expected_calibration_error,
    first_error_f1,
    predicted_first_errors,
    ranks,
    reliability_bins,
    spearman,
)


@pytest.fixture(params=range(6))
def tied(request):
    """Scores with many ties, and random classes."""
    rng = np.random.default_rng(request.param)
    scores = rng.integers(0, 5, size=60) / 4.0
    return scores, rng.random(60) < 0.2 + 0.6 * scores, rng.integers(0, 9, size=60)


def test_auroc_is_the_pairwise_comparison_and_sklearns(tied):
    scores, positive, _ = tied
    pairs = np.sign(scores[positive][:, None] - scores[~positive][None])
    assert auroc(scores, positive) == pytest.approx(np.mean((pairs + 1) / 2), abs=1e-12)
    assert auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)


def test_average_precision_is_sklearns(tied):
    scores, positive, _ = tied
    assert average_precision(scores, positive) == pytest.approx(metrics.average_precision_score(positive, scores))


def test_auroc_replicates_are_the_auroc_of_the_resampled_steps(tied):
    scores, positive, problem = tied
    replicates = auroc_replicates(scores, positive, problem, 9, 450, seed=5)
    counts = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=450)
    for row in (0, 199, 200, 449):
        drawn = np.concatenate([np.flatnonzero(problem == p) for p in range(9) for _ in range(counts[row, p])])
        assert replicates[row] == pytest.approx(auroc(scores[drawn], positive[drawn]), abs=1e-12)


def test_one_class_gives_nan():
    assert np.isnan(auroc(np.arange(3), np.ones(3)))
    assert np.isnan(average_precision(np.arange(3), np.zeros(3)))
    assert np.isnan(auroc_replicates(np.arange(3), np.ones(3, bool), np.zeros(3, int), 1, 2, 0)).all()
    assert np.isnan(brier(np.zeros(0), np.zeros(0)))


def test_ranks_share_ties():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_brier_with_soft_targets():
    assert brier(np.array([0.5, 1.0]), np.array([0.25, 0.5])) == pytest.approx((0.0625 + 0.25) / 2)


def test_reliability_bins_and_ece_by_hand():
    scores, target = np.array([0.05, 0.05, 0.95, 1.0, 0.5]), np.array([0, 1, 1, 1, 0])
    bins = reliability_bins(scores, target)
    assert [(one.low, one.count) for one in bins] == [(0.0, 2), (0.5, 1), (0.9, 2)]
    assert bins[0].mean_target == 0.5
    assert bins[2].mean_score == pytest.approx(0.975)
    assert expected_calibration_error(scores, target) == pytest.approx((2 * 0.45 + 0.5 + 2 * 0.025) / 5)
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))


def test_first_error_f1_by_hand():
    scores = [np.array([0.9, 0.4, 0.1]), np.array([0.9, 0.8]), np.array([0.3]), np.array([0.7, 0.2])]
    predicted = predicted_first_errors(scores, 0.5)
    assert predicted.tolist() == [1, -1, 0, 1]
    result = first_error_f1(predicted, np.array([1, -1, -1, 0]))
    assert (result.accuracy_erroneous, result.accuracy_correct) == (0.5, 0.5)
    assert result.f1 == pytest.approx(0.5)
    assert np.isnan(first_error_f1(predicted, np.array([1, 2, 0, 0])).f1)
    assert first_error_f1(np.array([0, -1]), np.array([-1, 0])).f1 == 0.0


def test_spearman():
    assert spearman(np.array([1, 2, 3]), np.array([10, 100, 1000])) == pytest.approx(1.0)
    assert spearman(np.array([1, 2, 2]), np.array([3, 1, 1])) == pytest.approx(-1.0)
    assert np.isnan(spearman(np.array([1, 2]), np.array([1, 1])))
