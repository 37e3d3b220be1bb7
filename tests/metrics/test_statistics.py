import itertools
import math

import numpy as np
import pytest

from dreamprm_jax.metrics.statistics import (
    bootstrap_interval,
    bootstrap_means,
    mcnemar,
    pass_at_k,
    random_selection_test,
    recovered_share,
    wilson_interval,
)
from dreamprm_jax.selection.best_of_n import best_of_k


@pytest.mark.parametrize("correct", range(7))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(correct, k):
    passed = np.array([1] * correct + [0] * (6 - correct))
    expected = np.mean([max(subset) for subset in itertools.combinations(passed, k)])
    assert pass_at_k(np.array([6]), np.array([correct]), k)[0] == pytest.approx(expected, abs=1e-12)
    assert best_of_k(passed, passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_needs_k_candidates():
    assert np.isnan(pass_at_k(np.array([3]), np.array([1]), 4)).all()
    with pytest.raises(ValueError, match="correct <= candidates"):
        pass_at_k(np.array([3]), np.array([4]), 1)


def test_bootstrap_means_agree_with_every_possible_resample():
    values = np.array([0.0, 0.0, 1.0, 0.5])
    exact = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)])  # all 256 are equally likely
    drawn = bootstrap_means(values[None], 40000, seed=3)[:, 0]
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.004)
    assert drawn.std() == pytest.approx(exact.std(), abs=0.004)
    for level in (0.0, 0.25, 0.5, 0.75):
        assert np.mean(drawn <= level) == pytest.approx(np.mean(exact <= level), abs=0.01)
    interval = bootstrap_interval(values, 40000, seed=3)
    assert (interval.low, interval.high) == tuple(np.quantile(exact, [0.025, 0.975]))


def test_bootstrap_is_seeded_and_paired():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, size=(2, 60)).astype(float)
    together = bootstrap_means(np.stack([first, second, first - second]), 2500, seed=1)
    np.testing.assert_array_equal(together, bootstrap_means(np.stack([first, second, first - second]), 2500, seed=1))
    np.testing.assert_allclose(together[:, 0] - together[:, 1], together[:, 2], atol=1e-12)
    assert together.shape == (2500, 3)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (7, 2), (3, 3), (1, 9)])
def test_mcnemar_is_the_two_sided_binomial_tail(wins, losses):
    first = np.array([1] * wins + [0] * losses + [1, 0, 1])
    second = np.array([0] * wins + [1] * losses + [1, 0, 1])
    outcomes = [sum(flips) for flips in itertools.product([0, 1], repeat=wins + losses)]
    center = (wins + losses) / 2
    expected = np.mean([abs(heads - center) >= abs(wins - center) for heads in outcomes])
    test = mcnemar(first, second)
    assert (test.wins, test.losses) == (wins, losses)
    assert test.p_value == pytest.approx(expected, abs=1e-12)


def test_mcnemar_stays_finite_with_many_problems():
    ones = np.ones(3000)
    assert mcnemar(ones, 1 - ones).p_value == 0.0
    assert mcnemar(ones, ones).p_value == 1.0


def test_random_selection_test_against_enumeration():
    rates = np.array([0.1, 0.5, 0.8, 1.0])
    chance = 0.0
    for draw in itertools.product([0, 1], repeat=4):
        if sum(draw) >= 3:
            chance += math.prod(rate if hit else 1 - rate for rate, hit in zip(rates, draw, strict=True))
    assert random_selection_test(rates, 3.0) == pytest.approx(chance)
    assert random_selection_test(rates, 3.5) == pytest.approx(chance)
    assert random_selection_test(rates, 0) == pytest.approx(1.0)


def test_recovered_share():
    shares = recovered_share(np.array([0.7, 0.4, 0.5]), np.array([0.4, 0.4, 0.5]), np.array([0.9, 0.9, 0.5]))
    np.testing.assert_allclose(shares, [0.6, 0.0, np.nan])


# The paper's rows (arXiv 2512.15000, table 1), policy o4-mini-high, as counts of 131 problems.
@pytest.mark.parametrize(
    ("solved", "percent", "low", "high"),
    [(106, 80.9, 73.4, 86.7), (105, 80.2, 72.5, 86.1), (104, 79.4, 71.7, 85.4), (101, 77.1, 69.2, 83.5)],
)
def test_the_papers_rows_with_their_intervals(solved, percent, low, high):
    wilson = wilson_interval(solved, 131)
    assert round(100 * wilson.estimate, 1) == percent
    assert 100 * wilson.low == pytest.approx(low, abs=0.06)
    assert 100 * wilson.high == pytest.approx(high, abs=0.06)
    values = np.array([1.0] * solved + [0.0] * (131 - solved))
    bootstrap = bootstrap_interval(values, 10000, seed=0)
    assert 100 * (bootstrap.high - bootstrap.low) / 2 == pytest.approx(6.9, abs=0.5)  # "about 6.7 points"
    assert bootstrap.low == pytest.approx(wilson.low, abs=0.01)


def test_the_papers_gains_are_not_significant_even_if_every_solved_set_is_nested():
    def row(solved: int) -> np.ndarray:
        return (np.arange(131) < solved).astype(float)

    assert mcnemar(row(106), row(105)).p_value == 1.0
    assert mcnemar(row(106), row(104)).p_value == 0.5
    assert mcnemar(row(106), row(101)).p_value == pytest.approx(0.0625)
