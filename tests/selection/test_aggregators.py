import numpy as np
import pytest

from dreamprm_jax.selection.aggregators import AGGREGATORS, aggregate, log_sigmoid, sigmoid

ROWS = [[2.0, -1.0, 0.5], [0.3], [-4.0, 4.0]]


def reference(row: list[float], name: str) -> float:
    scores = [1 / (1 + np.exp(-x)) for x in row]
    return {
        "last": row[-1],
        "min": min(row),
        "max": max(row),
        "mean": float(np.mean(scores)),
        "product": float(np.log(np.prod(scores))),
        "product_normalized": float(np.log(np.prod(scores) ** (1 / len(row)))),
        "sum_log_odds": sum(row),
        "mean_log_odds": sum(row) / len(row),
    }[name]


@pytest.mark.parametrize("name", list(AGGREGATORS))
def test_each_aggregator_is_its_definition_on_ragged_rows(name):
    np.testing.assert_allclose(aggregate(ROWS, name), [reference(row, name) for row in ROWS], rtol=1e-12)


@pytest.mark.parametrize("name", list(AGGREGATORS))
def test_programs_without_usable_logits_get_nan_and_leave_the_others_alone(name):
    result = aggregate([[], *ROWS, [1.0, float("nan")]], name)
    assert np.isnan(result[[0, -1]]).all()
    np.testing.assert_array_equal(result[1:-1], aggregate(ROWS, name))


def test_no_program_at_all():
    assert aggregate([], "last").shape == (0,)


def test_saturated_scores_still_rank():
    assert sigmoid(np.array([800.0, -800.0])).tolist() == [1.0, 0.0]
    assert log_sigmoid(np.array([-800.0]))[0] == -800.0
    low, high = aggregate([[-900.0, 900.0], [-800.0, 900.0]], "product")
    assert low < high


def test_product_favors_short_programs_and_the_normalized_form_does_not():
    short, long = [1.0], [1.0] * 6
    assert np.diff(aggregate([short, long], "product"))[0] < -1
    assert np.diff(aggregate([short, long], "product_normalized"))[0] == pytest.approx(0, abs=1e-12)


def test_unknown_aggregator_is_named():
    with pytest.raises(KeyError, match="median"):
        aggregate(ROWS, "median")
