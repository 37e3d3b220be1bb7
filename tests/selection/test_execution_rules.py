import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dreamprm_jax.selection.best_of_n import best_of_k_weights
from dreamprm_jax.selection.execution_rules import filter_numbers, mean_weights, prune, subsets, vote_rule

NAN = float("nan")


def test_all_subsets_or_a_seeded_sample():
    assert [tuple(one) for one in subsets(5, 3)] == list(itertools.combinations(range(5), 3))
    drawn = subsets(30, 15, limit=40, seed=1)
    assert drawn.shape == (40, 15)
    subsets.cache_clear()
    assert np.array_equal(drawn, subsets(30, 15, limit=40, seed=1))
    assert not np.array_equal(drawn, subsets(30, 15, limit=40, seed=2))
    assert all(len(set(one)) == 15 for one in drawn.tolist())
    with pytest.raises(ValueError, match="k=6"):
        subsets(5, 6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_filter_ranks_passing_candidates_first(seed, k):
    """Compares with the definition: the highest number among candidates that pass, or among all if none passes."""
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
    everyone = np.arange(5)[None]

    def vote(*args, drawn=everyone, **kwargs):
        return vote_rule(clusters, *args, **kwargs)(drawn)[0].tolist()

    assert vote() == [0, 0.5, 0.5, 0, 0]
    assert vote(drawn=np.array([[0, 1, 3]])) == [0.5, 0.5, 0]  # a tie of two clusters
    assert vote(drawn=np.array([[3]])) == [1.0]  # all failed
    weights = np.array([0.9, 0.3, 0.4, 1.0, NAN])
    assert vote(weights) == [1, 0, 0, 0, 0]
    numbers = np.array([0.0, 3.0, 5.0, 9.0, 1.0])
    assert vote(None, numbers) == [0, 0, 1, 0, 0]
    assert vote(None, np.array([0.0, NAN, NAN, 9.0, 1.0])) == [0, 0.5, 0.5, 0, 0]  # the winning cluster has no number
    eligible = np.array([True, False, False, True, True])
    assert vote(eligible=eligible) == [0.5, 0, 0, 0, 0.5]
    assert vote(eligible=np.zeros(5, bool)) == [0, 0.5, 0.5, 0, 0]
    assert vote(np.zeros(5)) == pytest.approx([1 / 3, 1 / 6, 1 / 6, 0, 1 / 3])  # three clusters tie with zero votes


def test_prune_then_execute_stops_at_the_first_pass():
    numbers = np.array([1.0, 3.0, 2.0, NAN])
    public = np.array([True, False, True, True])
    drawn = np.tile(np.arange(4), (5, 1))
    weights, runs = prune(numbers, public, np.arange(5), drawn)
    assert weights.argmax(axis=1).tolist() == [1, 1, 2, 2, 2]
    assert runs.tolist() == [0, 1, 2, 2, 2]
    assert prune(numbers, np.zeros(4, bool), 4, drawn[:1])[0].tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_to_run_all_is_the_public_test_filter(seed, k):
    rng = np.random.default_rng(seed)
    numbers, public = rng.integers(0, 3, 5).astype(float), rng.random(5) < 0.5
    numbers[rng.random(5) < 0.2] = NAN
    drawn = subsets(5, k)
    weights, _ = prune(numbers, public, 5, drawn)
    assert mean_weights(drawn, weights, 5) == pytest.approx(best_of_k_weights(filter_numbers(numbers, public), k))


def _prune_by_definition(numbers, public, most):
    """The mean over all orders in which candidates with equal numbers can be run."""
    n = len(numbers)
    weights, runs, orders = np.zeros(n), 0, list(itertools.permutations(range(n)))
    for order in orders:
        best_first = sorted(order, key=lambda i: np.inf if np.isnan(numbers[i]) else -numbers[i])
        tried = best_first[:most]
        first = next((place for place, i in enumerate(tried) if public[i]), None)
        weights[best_first[0] if first is None else tried[first]] += 1
        runs += len(tried) if first is None else first + 1
    return weights / len(orders), runs / len(orders)


@pytest.mark.parametrize("seed", range(8))
def test_prune_averages_over_the_orders_of_equal_numbers(seed):
    rng = np.random.default_rng(seed)
    for most in range(7):
        numbers, public = rng.integers(0, 3, 5).astype(float), rng.random(5) < 0.4
        numbers[rng.random(5) < 0.2] = NAN
        weights, runs = prune(numbers, public, most, np.arange(5)[None])
        expected, expected_runs = _prune_by_definition(numbers, public, most)
        assert weights[0] == pytest.approx(expected)
        assert runs[0] == pytest.approx(expected_runs)


RULES = {
    "best of k": lambda one, k: best_of_k_weights(one["numbers"], k),
    "filter": lambda one, k: best_of_k_weights(filter_numbers(one["numbers"], one["public"]), k),
    "vote": lambda one, k: _over_subsets(vote_rule(one["clusters"]), k),
    "public vote": lambda one, k: _over_subsets(vote_rule(one["clusters"], eligible=one["public"]), k),
    "weighted vote": lambda one, k: _over_subsets(vote_rule(one["clusters"], one["weights"], one["numbers"]), k),
    **{
        f"prune {most}": lambda one, k, most=most: _over_subsets(
            lambda drawn: prune(one["numbers"], one["public"], most, drawn)[0], k
        )
        for most in (0, 1, 2, 6)
    },
}
SIZE = 6


def _over_subsets(rule, k):
    drawn = subsets(SIZE, k)
    weights = rule(drawn)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    return mean_weights(drawn, weights, SIZE)


@pytest.mark.parametrize("name", RULES)
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    numbers=st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=SIZE, max_size=SIZE),
    public=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE),
    clusters=st.lists(st.integers(-1, 2), min_size=SIZE, max_size=SIZE),
    weights=st.lists(st.sampled_from([0.0, 0.25, 0.5, NAN]), min_size=SIZE, max_size=SIZE),
    order=st.permutations(range(SIZE)),
    k=st.integers(1, SIZE),
)
def test_the_order_of_the_candidates_never_matters(name, numbers, public, clusters, weights, order, k):
    one = {
        "numbers": np.array(numbers),
        "public": np.array(public),
        "clusters": np.array(clusters),
        "weights": np.array(weights),
    }
    expected = RULES[name](one, k)
    assert expected.sum() == pytest.approx(1.0)
    permuted = RULES[name]({key: values[order] for key, values in one.items()}, k)
    assert permuted == pytest.approx(expected[order])
