import itertools

import numpy as np
import pytest

from dreamprm_jax.selection.best_of_n import best_of_k_weights
from dreamprm_jax.selection.choose_aggregator import MIN_PROBLEMS, automatic, cross_fitted
from dreamprm_jax.selection.strategies import filter_numbers, prune_executions, prune_rule, vote_rule
from dreamprm_jax.selection.subsets import mean_over_subsets, subsets

NAN = float("nan")


def test_all_subsets_or_a_seeded_sample():
    assert [tuple(one) for one in subsets(5, 3)] == list(itertools.combinations(range(5), 3))
    drawn = [tuple(one) for one in subsets(30, 15, limit=40, seed=1)]
    assert len(drawn) == 40
    assert drawn == [tuple(one) for one in subsets(30, 15, limit=40, seed=1)]
    assert all(len(set(one)) == 15 for one in drawn)
    with pytest.raises(ValueError, match="k=6"):
        next(subsets(5, 6))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_filter_ranks_passing_candidates_first(seed, k):
    """Against the definition: the best number of those that pass, or of all where none does."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 3, 6).astype(float)
    public = rng.random(6) < 0.5
    weights = best_of_k_weights(filter_numbers(numbers, public), k)
    expected = np.zeros(6)
    for drawn in itertools.combinations(range(6), k):
        allowed = [i for i in drawn if public[i]] or list(drawn)
        best = [i for i in allowed if numbers[i] == max(numbers[j] for j in allowed)]
        expected[best] += 1 / len(best)
    assert weights == pytest.approx(expected / expected.sum())


def test_a_candidate_without_a_score_is_behind_its_group_and_before_the_next():
    ranked = filter_numbers(np.array([NAN, -5.0, 2.0, NAN]), np.array([True, False, False, False]))
    assert np.argsort(-ranked).tolist() == [0, 2, 1, 3]


def test_votes_by_hand():
    clusters = np.array([0, 1, 1, -1, 2])
    everyone = np.arange(5)
    assert vote_rule(clusters)(everyone).tolist() == [0, 0.5, 0.5, 0, 0]
    assert vote_rule(clusters)(np.array([0, 1, 3])).tolist() == [0.5, 0.5, 0]  # a tie of two clusters
    assert vote_rule(clusters)(np.array([3])).tolist() == [1.0]  # all failed
    weights = np.array([0.9, 0.3, 0.4, 1.0, NAN])
    assert vote_rule(clusters, weights)(everyone).tolist() == [1, 0, 0, 0, 0]
    numbers = np.array([0.0, 3.0, 5.0, 9.0, 1.0])
    assert vote_rule(clusters, None, numbers)(everyone).tolist() == [0, 0, 1, 0, 0]
    eligible = np.array([True, False, False, True, True])
    assert vote_rule(clusters, eligible=eligible)(everyone).tolist() == [0.5, 0, 0, 0, 0.5]
    assert vote_rule(clusters, eligible=np.zeros(5, bool))(everyone).tolist() == [0, 0.5, 0.5, 0, 0]


def test_prune_then_execute_stops_at_the_first_pass():
    numbers = np.array([1.0, 3.0, 2.0, NAN])
    public = np.array([True, False, True, True])
    drawn = np.arange(4)
    picks = [int(np.argmax(prune_rule(numbers, public, most)(drawn))) for most in range(5)]
    assert picks == [1, 1, 2, 2, 2]
    assert [prune_executions(numbers, public, most)(drawn) for most in range(5)] == [0, 1, 2, 2, 2]
    assert prune_rule(numbers, np.zeros(4, bool), 4)(drawn).tolist() == [0, 1, 0, 0]
    # to run all is the public-test filter, over every subset
    for k in (1, 2, 3, 4):

        def scattered(one: np.ndarray) -> np.ndarray:
            result = np.zeros(4)
            result[one] = prune_rule(numbers, public, 4)(one)
            return result

        filtered = best_of_k_weights(filter_numbers(numbers, public), k)
        assert mean_over_subsets(scattered, 4, k) == pytest.approx(filtered)


def test_the_aggregator_is_chosen_where_there_is_enough_to_choose_on():
    accuracies = {"last": np.array([0.0, 1.0]), "min": np.array([1.0, 1.0]), "mean": np.array([1.0, 1.0])}
    choice = automatic(accuracies, MIN_PROBLEMS, "last", "100 candidates")
    assert (choice.name, choice.accuracies["last"]) == ("min", 0.5)
    assert "chosen on 100 candidates" in choice.reason
    assert automatic(accuracies, MIN_PROBLEMS, "mean", "x").name == "mean"  # ties go to the default
    few = automatic(accuracies, MIN_PROBLEMS - 1, "last", "x")
    assert (few.name, few.accuracies) == ("last", {})
    assert "last kept" in few.reason
    assert "not scored" in automatic(None, 0, "last", "", "not scored").reason


def test_choosing_on_other_folds_cannot_use_the_problem_itself():
    rng = np.random.default_rng(0)
    coins = (rng.random((200, 8, 60)) < 0.5).astype(float)  # 200 data sets of 8 equal aggregators
    assert coins.mean(axis=2).max(axis=1).mean() > 0.58  # the best of eight coins looks better than a coin
    assert abs(np.mean([cross_fitted(list(one), repeats=4).mean() for one in coins]) - 0.5) < 0.015
    better = [np.full(400, 0.4), np.full(400, 0.7)]
    assert cross_fitted(better) == pytest.approx(np.full(400, 0.7))
    assert np.isnan(cross_fitted([np.ones(3)])).all()
