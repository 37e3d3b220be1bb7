import csv
import io
import math

import numpy as np
import pytest

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.paper import paper_table
from dreamprm_jax.evaluation.printing import result_tables
from dreamprm_jax.evaluation.selection_results import selection_results
from dreamprm_jax.evaluation.strategy_results import strategy_results
from dreamprm_jax.schema import Problem, Program
from dreamprm_jax.tables import csv_text, finite, number, p_value, percent, signed, text_table


def candidates(passed: list[list[int]], logits: list[list[list[float]]], platforms: list[str]) -> list[Candidates]:
    rows = []
    for index, (own, scores) in enumerate(zip(passed, logits, strict=True)):
        name = f"p{index}"
        difficulty = ("easy", "medium", "hard")[index % 3]
        problem = Problem(name, name, "", platforms[index], "c", f"2025-0{1 + index % 2}-05", difficulty)
        programs = tuple(Program.make(name, "x" * (k + 1), k, "policy", {}) for k in range(len(own)))
        rows.append(Candidates(problem, programs, np.array(own, float), {"raw": tuple(map(np.array, scores))}))
    return rows


WINDOW = candidates(
    [[1, 0, 0], [0, 1], [0, 0, 0]],
    [[[0.0, 2.0], [1.0], [0.0]], [[3.0], [3.0]], [[1.0], [2.0, 1.0, 0.0], []]],
    ["x", "y", "x"],
)


@pytest.fixture
def selection():
    return selection_results(WINDOW, ("raw",), "last", 200, 0)


def test_a_table_by_hand(selection):
    table = {row["method"]: row for row in selection["table"]}
    assert table["random"]["overall"]["estimate"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert table["raw"]["overall"]["estimate"] == pytest.approx((1 + 0.5) / 3)
    assert table["oracle"]["overall"]["estimate"] == pytest.approx(2 / 3)
    assert table["raw"]["recovered_share"]["estimate"] == pytest.approx((1.5 - 5 / 6) / (2 - 5 / 6))
    assert [table["raw"][name] for name in ("easy", "medium", "hard")] == [1.0, 0.5, 0.0]
    assert selection["best_of"] == 3
    assert selection["problems_with_fewer_candidates"] == 1
    assert selection["curve"]["k"] == [1, 2, 3]
    (gap,) = selection["differences"]
    assert (gap["against"], gap["wins"]) == ("random", None)
    # The chance that random selection solves at least one problem (1.5 rounded down), with rates 1/3, 1/2 and 0.
    assert gap["p_value"] == pytest.approx(1 - (2 / 3) * (1 / 2))


def test_groups_and_candidates_without_score(selection):
    assert [(row["platform"], row["problems"], row["raw"]) for row in selection["platforms"]] == [
        ("x", 2, 0.5),
        ("y", 1, 0.5),
    ]
    assert [row["month"] for row in selection["months"]] == ["2025-01", "2025-02"]
    raw, oracle = selection["programs"]
    assert raw["without_score"] == 1
    assert oracle["outcome_auroc"]["estimate"] == 1.0
    assert sum(one["count"] for one in raw["outcome_reliability"]) == 7
    assert oracle["outcome_reliability"] == []
    # p0: last logits 2, 1, 0 decrease for 1, 2, 3 characters; p1 has ties; p2: logits 1, 0 decrease with characters.
    assert raw["length_correlation_characters"] == pytest.approx(-1.0)


def test_no_arm_leaves_random_and_oracle():
    selection = selection_results(candidates([[1, 0]], [[[0.0], [1.0]]], ["x"]), (), "last", 50, 0)
    assert [row["method"] for row in selection["table"]] == ["random", "oracle"]
    assert selection["differences"] == []


def test_all_tables_are_rectangular(selection):
    strategies = strategy_results(WINDOW, ("raw",), "last", None, None, 2, 50, 0)
    choice = {"name": "last", "reason": "set", "accuracies": {}}
    results = {
        "selection": selection,
        "strategies": strategies,
        "aggregator": "last",
        "aggregator_choice": choice,
        "source": "livecodebench",
    }
    tables = result_tables(results | {"steps": None, "labels": None})
    assert [table.key for table in tables][-2:] == ["platforms", "months"]
    for table in [*tables, paper_table()]:
        assert all(len(row) == len(table.header) for row in table.rows), table.key


def test_the_papers_table_is_the_papers():
    rows = {row[0]: row[1:] for row in paper_table().rows}
    assert rows["DreamPRM-Code"][:4] == ["100.0", "92.3", "63.9", "80.9"]
    assert rows["PRM-CoF"][:4] == ["100.0", "92.3", "62.3", "80.2"]
    assert rows["ORM"][:4] == ["100.0", "89.7", "62.3", "79.4"]
    assert rows["o4-mini-high alone"][:4] == ["100.0", "89.7", "57.4", "77.1"]
    assert rows["Gemini-2.5"][:4] == ["100.0", "82.1", "52.5", "72.5"]
    assert rows["O3"][:4] == ["100.0", "71.8", "57.4", "71.8"]
    assert rows["DeepSeek-R1"][:4] == ["99.7", "77.7", "47.2", "68.7"]
    assert [rows[name][5:] for name in list(rows)[4:]] == [["101", ""], ["104", "+3"], ["105", "+4"], ["106", "+5"]]
    # Wilson's 95% interval of 106 of 131, by hand: scipy and statsmodels give .7331 and .8668
    assert rows["DreamPRM-Code"][4] == "[73.3, 86.7]"
    assert rows["o4-mini-high alone"][4] == "[69.2, 83.5]"


def test_our_rows_stand_below_the_papers_with_the_problems_of_each_gap(selection):
    rows = {row[0]: row[1:] for row in paper_table({"selection": selection}).rows}
    assert rows["here: problems"][:4] == ["1", "1", "1", "3"]
    assert rows["PRM, raw labels"][3:] == ["50.0", rows["PRM, raw labels"][4], "1.5", "+0.7"]  # 1.5 - 5/6
    assert "Here one problem is 33.3 points." in paper_table({"selection": selection}).explanation


def test_text_alignment_and_figures():
    assert text_table(["a", "bb"], [["long", "1"]]) == "a     bb\n--------\nlong   1"
    assert (number(math.nan), number(None), percent(None), signed(None)) == ("-", "-", "-", "-")
    assert (signed(0.04), signed(-0.04), signed(-0.06), signed(1.0)) == ("0.0", "0.0", "-0.1", "+1.0")
    assert (p_value(0.0001), p_value(0.5), p_value(None)) == ("<0.001", "0.500", "-")


def test_csv_flattens_and_quotes():
    text = csv_text([{"a": {"b": 1, "c": None}, "d": 'x, "y"', "e": [1]}, {"f": 2}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0] == {"a.b": "1", "a.c": "", "d": 'x, "y"', "f": ""}
    assert rows[1]["f"] == "2"


def test_finite_replaces_nan_and_keeps_the_rest():
    assert finite({"a": [1.5, math.nan], "b": (math.inf, "x", None)}) == {"a": [1.5, None], "b": [None, "x", None]}
