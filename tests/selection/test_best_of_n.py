import itertools

import numpy as np
import pytest

from dreamprm_jax.selection.best_of_n import (
    best_of_k,
    best_of_k_weights,
    choose,
    powers_of_two,
    subset_shares,
)


def brute_force(numbers: np.ndarray, passed: np.ndarray, k: int) -> float:
    """Averages over every subset and every tied winner."""
    values = []
    for subset in itertools.combinations(range(len(numbers)), k):
        scored = [i for i in subset if not np.isnan(numbers[i])]
        best = [i for i in scored if numbers[i] == max(numbers[j] for j in scored)] or list(subset)
        values.append(np.mean([passed[i] for i in best]))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_best_of_k_is_the_mean_over_all_subsets_with_ties_and_gaps(seed, k):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 4, size=8).astype(float)
    numbers[rng.random(8) < 0.2] = np.nan
    if seed == 0:
        numbers[:] = np.nan
    if seed == 1:
        numbers[:3] = -np.inf
    passed = rng.integers(0, 2, size=8)
    assert best_of_k(numbers, passed, k) == pytest.approx(brute_force(numbers, passed, k), abs=1e-12)


def test_weights_sum_to_one_and_leave_unscored_candidates_last():
    numbers = np.array([0.5, np.nan, -np.inf, 0.5])
    np.testing.assert_allclose(best_of_k_weights(numbers, 4), [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(best_of_k_weights(numbers, 1), [0.25] * 4)
    assert choose(numbers).tolist() == [0, 3]


def test_an_unscored_candidate_loses_to_minus_infinity():
    assert best_of_k(np.array([np.nan, -np.inf]), np.array([1, 0]), 2) == 0.0


def test_constant_numbers_are_random_selection_and_outcomes_are_the_oracle():
    passed = np.array([1, 0, 0, 1, 0])
    assert best_of_k(np.zeros(5), passed, len(passed)) == pytest.approx(0.4)
    assert best_of_k(passed, passed, len(passed)) == 1.0
    assert best_of_k(np.full(5, np.nan), passed, len(passed)) == pytest.approx(0.4)


def test_many_candidates_do_not_overflow():
    rng = np.random.default_rng(0)
    numbers, passed = rng.normal(size=4096), rng.integers(0, 2, size=4096)
    weights = best_of_k_weights(numbers, 1024)
    assert weights.sum() == pytest.approx(1.0)
    assert 0 <= weights @ passed <= 1


def test_subset_size_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="k=3"):
        subset_shares(np.array([1]), 2, 3)


def test_curve_points():
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(7) == [1, 2, 4]
    assert powers_of_two(1) == [1]
