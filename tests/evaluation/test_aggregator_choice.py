import numpy as np
import pytest

from dreamprm_jax.evaluation.aggregator_choice import MIN_PROBLEMS, automatic, cross_fitted


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
