"""Step-labeled files in their published formats, with bad rows among good ones."""

import gzip
import json
import math

import datasets
import pytest

from dreamprm_jax.config import StepDataConfig
from dreamprm_jax.labeling.step_files import LabeledSteps, SteppedProgram, read_steps, step_texts
from dreamprm_jax.schema import DataError, Skip

TRL = {"prompt": "What is 1 + 1?", "completions": ["One and one.", "It is 3."], "labels": [True, False]}
SHEPHERD = {
    "input": "What is 1 + 1? Step 1: One and one. ки\nStep 2: The answer is: 3 ки",
    "label": "What is 1 + 1? Step 1: One and one. +\nStep 2: The answer is: 3 -",
    "task": "GSM8K",
}
BENCH = {"id": "g-1", "problem": "Q", "steps": ["a", "b", "c"], "label": 1, "final_answer_correct": False}


def prm800k(*steps, finish="solution"):
    return {
        "labeler": "x",
        "question": {"problem": "Q", "ground_truth_answer": "3"},
        "label": {"steps": list(steps), "finish_reason": finish},
    }


def rated(*completions, chosen=None, human=None):
    texts = [{"text": text, "rating": rating, "flagged": None} for text, rating in completions]
    return {"completions": texts, "chosen_completion": chosen, "human_completion": human}


def read(path, **settings):
    rows = list(read_steps(str(path), StepDataConfig(**settings)))
    return [one for one in rows if isinstance(one, LabeledSteps)], [one for one in rows if isinstance(one, Skip)]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def same(one, prompt, steps, labels, outcome=math.nan):
    assert (one.prompt, one.steps) == (prompt, tuple(steps))
    assert [None if math.isnan(label) else label for label in one.labels] == labels
    assert one.outcome == outcome or (math.isnan(one.outcome) and math.isnan(outcome))


def test_trl_rows_with_soft_and_missing_labels_and_an_outcome(tmp_path):
    soft = {"prompt": "P", "completions": ["a\u2028b", "c", "d"], "labels": [0.25, None, 1], "is_correct": 1}
    talk = {"prompt": [{"role": "user", "content": "P2"}], "completions": ["a"], "labels": [False]}
    (first, second, third), skips = read(write(tmp_path / "x.jsonl", TRL, soft, talk))
    same(first, TRL["prompt"], TRL["completions"], [1.0, 0.0])
    same(second, "P", ["a\u2028b", "c", "d"], [0.25, None, 1.0], 1.0)
    same(third, "P2", ["a"], [0.0])
    assert not skips


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "steps": ["a", "b"], "labels": [1, 0]},
        {"instruction": "Q", "completions": ["a", "b"], "labels": ["True", "false"]},
        {"problem": "Q", "steps": ["a", "b"], "rewards": ["+", "-"], "label": 3},
        {"prompt": "Q", "completions": [{"role": "assistant", "content": text} for text in "ab"], "labels": [1.0, 0.0]},
        {"question": "Q", "process": "a \n\n\n\n\nb \n\n\n\n\n", "label": ["+", "-"]},
    ],
)
def test_other_names_and_words(row, tmp_path):
    [one], skips = read(write(tmp_path / "x.jsonl", row))
    same(one, "Q", "ab", [1.0, 0.0])
    assert not skips


def test_math_shepherd(tmp_path):
    [one], skips = read(write(tmp_path / "x.jsonl", SHEPHERD, SHEPHERD | {"label": "What is 1 + 1? Step 1: Other. +"}))
    same(one, "What is 1 + 1?", ["Step 1: One and one.", "Step 2: The answer is: 3"], [1.0, 0.0], 0.0)
    assert skips[0].row == "row 2"
    assert "its 1. ки" in skips[0].reason


def test_prm800k_takes_the_chosen_steps_and_the_others_as_ends(tmp_path):
    row = prm800k(
        rated(("a", 1), ("a2", -1), ("a3", None), chosen=0),
        rated(("b", 0), ("b2", 0), chosen=1),
        rated(("c", -1)),
        finish="found_error",
    )
    found, _ = read(write(tmp_path / "x.jsonl", row))
    same(found[0], "Q", ["a", "b2", "c"], [1.0, 1.0, 0.0], 0.0)
    same(found[1], "Q", ["a2"], [0.0])
    same(found[2], "Q", ["a", "b"], [None, 1.0])
    assert len(found) == 3
    (first, *_), _ = read(tmp_path / "x.jsonl", neutral=-1.0)
    same(first, "Q", ["a", "b2", "c"], [1.0, None, 0.0], 0.0)


def test_prm800k_goes_on_after_a_human_step(tmp_path):
    row = prm800k(rated(("a", -1), human={"text": "h", "rating": None}), rated(("b", 1), chosen=0))
    found, _ = read(write(tmp_path / "x.jsonl", row, prm800k(rated(("z", 1), chosen=0), finish="bad_problem")))
    same(found[0], "Q", ["h", "b"], [1.0, 1.0], 1.0)


def test_process_bench_says_nothing_of_what_follows_the_first_error(tmp_path):
    (one, right), _ = read(write(tmp_path / "x.jsonl", BENCH, BENCH | {"problem": "R", "label": -1}))
    same(one, "Q", ["a", "b", "c"], [1.0, 0.0, None], 0.0)
    same(right, "R", ["a", "b", "c"], [1.0, 1.0, 1.0], 0.0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object, not a list"),
        ({"prompt": "p"}, "has the fields prompt; those of a known format are"),
        (TRL | {"labels": [True]}, "field labels: 1 labels for 2 steps"),
        (TRL | {"labels": [True, 2]}, "field labels[1]: 2 is neither"),
        (TRL | {"labels": [True, "maybe"]}, "field labels[1]: 'maybe' is neither"),
        (TRL | {"labels": [True, "[" * 100_000]}, "field labels[1]: '[[["),
        (TRL | {"labels": [None, None]}, "has no label"),
        (TRL | {"outcome": True, "rollouts": [10**400, 1]}, "field rollouts[0]: 1000"),
        (TRL | {"completions": ["a", 3]}, "field completions[1]: must be a string, not a number"),
        (TRL | {"completions": ["a", " "]}, "step 1: is empty"),
        (TRL | {"completions": [], "labels": []}, "has no step"),
        (TRL | {"prompt": "\ud800"}, "prompt: contains a lone surrogate"),
        (TRL | {"outcome": 0.5}, "field outcome: 0.5: an outcome is right or wrong"),
        (BENCH | {"label": 3}, "field label: 3 is neither -1 nor the index"),
        (prm800k(rated(("a", 7), chosen=0)), "rating 7 is not -1, 0 or 1"),
        (prm800k(rated(("a", 1), chosen=0), finish="bad_problem"), "'bad_problem'"),
        (prm800k({"completions": 5}), "field completions: a list of JSON objects belongs here"),
        (SHEPHERD | {"input": "no tag"}, "has no ки"),
    ],
)
def test_a_bad_row_is_a_named_skip_and_an_error_where_asked(row, reason, tmp_path):
    path = write(tmp_path / "x.jsonl", {"prompt": "fine", "completions": ["a"], "labels": [True]}, "", row)
    found, [skip] = read(path)
    assert [one.prompt for one in found] == ["fine"]
    assert skip.row == "row 3"
    assert reason in skip.reason
    with pytest.raises(DataError, match=r"x\.jsonl, row 3: .*without --strict"):
        read(path, strict=True)


def test_equal_rows_count_once(tmp_path):
    found, [skip] = read(write(tmp_path / "x.jsonl", TRL, TRL))
    assert len(found) == 1
    assert "earlier row" in skip.reason


def test_every_kind_of_file_says_the_same(tmp_path):
    rows = [TRL, TRL | {"prompt": "other", "labels": [None, True]}]
    plain = read(write(tmp_path / "x.jsonl", *rows))[0]
    with gzip.open(tmp_path / "y.jsonl.gz", "wt") as handle:
        handle.write((tmp_path / "x.jsonl").read_text())
    (tmp_path / "z.json").write_text(json.dumps(rows))
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(tmp_path / "p.parquet")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    data.to_parquet(tmp_path / "folder" / "a.parquet")
    data.map(lambda row: row | {"prompt": row["prompt"] + "!"}).to_parquet(tmp_path / "folder" / "b.parquet")
    for name in ("y.jsonl.gz", "z.json", "p.parquet", "saved"):
        assert repr(read(tmp_path / name)[0]) == repr(plain), name
    assert len(read(tmp_path / "folder")[0]) == 4
    assert len(read(tmp_path / "saved", split="test")[0]) == 1
    with pytest.raises(DataError, match=r"no split 'dev'; choose with --split among train, test"):
        read(tmp_path / "saved", split="dev")


def test_labels_of_mixed_types_in_a_list_stay_what_they_are(tmp_path):
    (tmp_path / "z.json").write_text(json.dumps([TRL | {"labels": [True, 0.5]}]))
    [one], skips = read(tmp_path / "z.json")
    assert one.labels == (1.0, 0.5)
    assert not skips


@pytest.mark.parametrize("name", ["none.jsonl", "a/b/c", "./x", "x.txt"])
def test_what_is_no_file_is_told(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match="no such file, or none of"):
        read(name)


def test_limit_counts_solutions(tmp_path):
    rows = [TRL | {"prompt": f"p{n}"} for n in range(5)]
    assert len(read(write(tmp_path / "x.jsonl", *rows), limit=3)[0]) == 3


def test_given_steps_are_the_programs_steps():
    program = SteppedProgram.of("p", ["def f():\n    pass\n\n\ndef g():\n    pass\n"])
    assert step_texts(program, "function") == list(program.steps)
    assert SteppedProgram.of("p", ["ab"]).program_hash != SteppedProgram.of("p", ["a", "b"]).program_hash
