import datetime
import json

import numpy as np
import pytest

from dreamprm_jax.evaluation.output import eval_all_row, write_eval_all
from dreamprm_jax.metrics.statistics import pass_at_k
from dreamprm_jax.problems.candidates import read_candidates
from dreamprm_jax.schema import Problem

PROBLEMS = [
    Problem(f"q{index}", "Title", "State", "atcoder", "abc1", f"2025-02-0{index}T10:00:00+00:00", difficulty)
    for index, difficulty in enumerate(("easy", "medium", "hard", "hard"), start=1)
]
PASSED = ([True, False, True], [False, False, False], [True, True, True], [False, True, False])


@pytest.fixture
def path(tmp_path):
    rows = [
        eval_all_row(problem, [f"print({i})\n" for i in range(3)], passed)
        for problem, passed in zip(PROBLEMS, PASSED, strict=True)
    ]
    write_eval_all(tmp_path / "eval_all.json", reversed(rows))
    return tmp_path / "eval_all.json"


def official_scores(path, k):
    """What lcb_runner.evaluation.compute_scores (commit 28fef95) computes from a file, line by line."""
    results = json.loads(path.read_text())
    for row in results:
        row["contest_date"] = datetime.datetime.fromisoformat(row["contest_date"])
    start = datetime.datetime.strptime("2025-02-02", "%Y-%m-%d")
    late = [row for row in results if start <= row["contest_date"]]
    totals = [len(row["graded_list"]) for row in results]
    corrects = [sum(row["graded_list"]) for row in results]

    def estimator(n: int, c: int) -> float:
        return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    hard = [row["pass@1"] for row in results if row["difficulty"] == "hard"]
    estimates = [estimator(n, c) for n, c in zip(totals, corrects, strict=True)]
    return np.mean(estimates), np.mean([row["pass@1"] for row in results]), np.mean(hard), len(late)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_official_script_computes_our_pass_at_k_from_it(path, k):
    at_k, at_1, hard, late = official_scores(path, k)
    assert at_k == pytest.approx(pass_at_k(np.full(4, 3), np.array([2, 0, 3, 1]), k).mean())
    assert (at_1, hard, late) == (pytest.approx(6 / 12), pytest.approx(4 / 6), 3)


def test_rows_have_the_fields_and_types_of_the_official_ones(path):
    rows = json.loads(path.read_text())
    assert [row["question_id"] for row in rows] == ["q1", "q2", "q3", "q4"]
    for row in rows:
        assert list(row) == [
            *("question_title", "question_content", "platform", "question_id", "contest_id", "contest_date"),
            *("starter_code", "difficulty", "output_list", "code_list", "graded_list", "pass@1", "metadata"),
        ]
        assert all(isinstance(value, bool) for value in row["graded_list"])
        assert all(json.loads(text) == {} for text in row["metadata"])
        assert len(row["metadata"]) == len(row["code_list"]) == len(row["graded_list"])


def test_what_is_written_is_read_again(path):
    file = read_candidates(path)
    assert [candidate.file_passed for candidate in file.usable] == [value for row in PASSED for value in row]
    assert file.usable[4].program.code == "print(1)\n"
    with pytest.raises(ValueError, match="q1: 0 programs"):
        eval_all_row(PROBLEMS[0], [], [])
