"""`import dreamprm_jax as dp` as a new user would use it: each of the five tasks takes at most five lines."""

import dataclasses
import math
import subprocess
import sys

import pytest

import dreamprm_jax as dp

STATEMENT = "Read a number and print twice of it."
RIGHT = "def read():\n    return int(input())\n\n\ndef main():\n    print(2 * read())\n\n\nmain()\n"
WRONG = "def main():\n    print(3 * int(input()))\n\n\nmain()\n"
TESTS = [("2\n", "4\n"), ("5\n", "10\n")]


@pytest.fixture(scope="module")
def model(prm_folder):
    return dp.load_prm(prm_folder)


def test_the_import_is_lazy():
    script = (
        "import sys, dreamprm_jax as dp\n"
        "heavy = {'jax', 'transformers', 'numpy', 'pyarrow', 'dreamprm_jax.api'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert [s.name for s in dp.split('def f():\\n    pass\\n')] == ['f']\n"
        "assert not {'jax', 'transformers', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert set(dp.__all__) <= set(dir(dp))\n"
        "assert callable(dp.make_meta_gradient) and 'jax' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'spit'"):
        dp.spit  # noqa: B018


def test_split_and_extract():
    answer = f"Here it is:\n```python\n{RIGHT}```\nDone."
    steps = dp.split(dp.extract(answer))
    assert [step.name for step in steps] == ["read", "main"]
    assert "".join(step.code for step in steps) == RIGHT
    assert len(dp.split(RIGHT, "line")) > 2
    assert dp.extract("I do not know.") == ""


def test_judge_by_texts():
    right, wrong, broken = dp.judge([RIGHT, WRONG, "def"], TESTS)
    assert (right.passed, right.verdict, right.tests_passed, right.tests_total) == (True, "AC", 2, 2)
    assert (wrong.passed, wrong.verdict, wrong.tests_passed) == (False, "WA", 0)
    assert (broken.verdict, bool(broken)) == ("CE", False)
    assert dp.judge(RIGHT, [{"input": "2", "output": "4"}])


def test_judge_with_a_checker_packages_and_reports():
    assert dp.judge("print(0.1 + 0.2)", [("", "0.3")], checker="abs=1e-9")
    assert dp.judge(
        "print('b a')",
        [("", "a b")],
        checker="def check(i, o, a):\n    return sorted(a.split()) == sorted(o.split())\n",
    )
    plain, wrong = dp.judge([RIGHT, WRONG], TESTS, per_test=True, packages=[])
    assert [one.verdict for one in plain.tests] == ["AC", "AC"]
    assert (wrong.tests[-1].got, wrong.tests[-1].expected) == ("6\n", "4\n")
    assert dp.judge("import numpy", [("", "")], packages=[]).verdict == "RE"
    with pytest.raises(dp.DataError, match="checker: 'close'"):
        dp.judge(RIGHT, TESTS, checker="close")
    with pytest.raises(dp.DataError, match="no_such"):
        dp.judge(RIGHT, TESTS, packages=["no_such"])


def test_judge_by_values():
    code = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert dp.judge(code, [((1, 2), 3), (("a", "b"), "ab"), (([1], [2]), [1, 2])], function="add")
    assert not dp.judge("def double(x):\n    return x\n", [(2, 4)], function="double")
    assert dp.judge("def double(x):\n    return 2 * x\n", [{"input": 2, "output": 4}], function="double")
    assert dp.judge(code, [{"input": "1\n2", "output": "3", "testtype": "functional"}], function="add")


@pytest.mark.parametrize(
    ("tests", "function", "message"),
    [
        ([("2", "4"), "24"], None, r"tests\[1\].*pair"),
        ([{"input": "2"}], None, r"tests\[0\]: field output is missing"),
        ([(2, 4)], None, r"tests\[0\].*function=NAME"),
        ([({1}, 2)], "f", r"tests\[0\].*JSON"),
    ],
)
def test_tests_that_cannot_be_read(tests, function, message):
    with pytest.raises(dp.DataError, match=message):
        dp.judge(RIGHT, tests, function)


def test_score_one_and_several(model):
    scored = model.score(STATEMENT, RIGHT, aggregator="last")
    assert [step.name for step in scored.steps] == ["read", "main"]
    assert scored.code == RIGHT
    assert all(0 < step.score < 1 for step in scored.steps)
    assert math.isclose(scored.score, scored.steps[-1].score, rel_tol=1e-6)
    assert "main" in repr(scored)
    again, other = model.score({"statement": STATEMENT}, [RIGHT, WRONG], aggregator="min")
    assert again.steps == scored.steps
    assert math.isclose(again.score, min(step.score for step in scored.steps), rel_tol=1e-6)
    assert len(other.steps) == 1
    titled = model.score({"question_title": "Double", "question_content": STATEMENT}, RIGHT)
    assert titled.steps != scored.steps  # the title is part of the prompt
    with pytest.raises(dataclasses.FrozenInstanceError):
        scored.score = 1.0


def test_html_colors_the_code_and_runs_none_of_it(model):
    scored = model.score(STATEMENT, "def main():\n    print('<script>alert(1)</script>\u202e')\n")
    page = scored._repr_html_()
    assert "rgba(" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "candidate 0 of 1" in model.best_of(STATEMENT, [scored.code])._repr_html_()


def test_best_of(model):
    candidates = [WRONG, RIGHT, ""]
    best = model.best_of(STATEMENT, candidates)
    scores = [one.score for one in model.score(STATEMENT, candidates[:2])]
    assert best.index == scores.index(max(scores))
    assert best.code == candidates[best.index]
    assert best.programs[2] is None
    judged = model.best_of(STATEMENT, candidates, tests=TESTS)
    assert judged.index == 1
    assert [bool(one) for one in judged.judgments] == [False, True, False]
    assert math.isnan(model.best_of(STATEMENT, [""]).score)
    assert "no score" in model.best_of(STATEMENT, [""])._repr_html_()


def test_what_cannot_be_scored_is_told(model):
    with pytest.raises(dp.DataError, match="program 1: empty program"):
        model.score(STATEMENT, [RIGHT, " "])
    with pytest.raises(dp.DataError, match="longer than the model's context of 1024 tokens"):
        model.score(STATEMENT, RIGHT * 200)
    with pytest.raises(dp.DataError, match="aggregator 'best'"):
        model.score(STATEMENT, RIGHT, "best")
    with pytest.raises(dp.DataError, match="at least one program"):
        model.best_of(STATEMENT, [])
    with pytest.raises(dp.DataError, match="must be the statement"):
        model.score({"title": "Double"}, RIGHT)
    with pytest.raises(dp.DataError, match="no such folder"):
        dp.load_prm("/nowhere/at/all")


def test_best_of_n():
    assert dp.best_of_n([0.1, 0.9], [False, True]) == 1.0
    assert dp.best_of_n([0.1, 0.9, 0.5], [False, True, False], n=1) == pytest.approx(1 / 3)
    assert dp.best_of_n([0.5, 0.5], [False, True]) == 0.5
    with pytest.raises(dp.DataError, match="2 scores, 1 outcomes"):
        dp.best_of_n([0.5, 0.5], [True])


def test_make_meta_gradient_is_the_library_s():
    from dreamprm_jax.bilevel import make_meta_gradient

    assert dp.make_meta_gradient is make_meta_gradient
