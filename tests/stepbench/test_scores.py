"""Reads the files of scorers: each form, and the errors of bad rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamprm_jax.cli.stepbench import _outputs
from dreamprm_jax.schema import DataError, Score
from dreamprm_jax.stepbench.records import Truth
from dreamprm_jax.stepbench.scores import read_scores, step_logprobs
from dreamprm_jax.storage import write_records


def truth(key: str, ends: tuple[int, ...] = (10, 20, 30), first_wrong: int = -1) -> Truth:
    return Truth("p", key, "test", first_wrong, ends, "clean", "", -1, -1, "", "", "AC")


TRUTH = {key: truth(key) for key in ("a", "b", "c")}


def written(path: Path, *rows: object) -> Path:
    path = path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_forms(tmp_path):
    path = written(
        tmp_path,
        {"program_hash": "a", "step_scores": [0.5, 1, -2.5], "model": "x"},
        {"program_hash": "b", "first_wrong": -1},
        {"program_hash": "c", "token_logprobs": [None, -1.0, -3.0, -0.5, -2], "code_start": 5,
         "text_offset": [4, 5, 12, 15, 26]},
        {"program_hash": "elsewhere", "first_wrong": 0},
    )  # fmt: skip
    said = read_scores(path, TRUTH)
    assert said.scores == {"a": (0.5, 1.0, -2.5), "c": (-2.0, -0.5, -2.0)}
    assert (said.named, said.unknown) == ({"b": -1}, 1)
    assert read_scores(path, TRUTH, "min").scores["c"] == (-3.0, -0.5, -2.0)


def test_parquet_of_the_score_command(tmp_path):
    path = tmp_path / "scores.parquet"
    write_records(path, Score, [Score("p", "a", (1.0, 2.0, 3.0), (0.7, 0.8, 0.9), "m", "c")])
    assert read_scores(path, TRUTH).scores == {"a": (0.7, 0.8, 0.9)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"step_scores": [1]}, "row 1, field program_hash: missing"),
        ({"program_hash": "a"}, "row 1: has none of the fields step_scores, first_wrong, token_logprobs"),
        ({"program_hash": "a", "step_scores": [1, 2]}, "field step_scores: 2 scores, but the program has 3 steps"),
        ({"program_hash": "a", "step_scores": [1, 2, float("nan")]}, r"field step_scores\[2\]: nan is not a finite"),
        ({"program_hash": "a", "step_scores": "x"}, "field step_scores: not a list"),
        ({"program_hash": "a", "first_wrong": 3}, "field first_wrong: 3 is neither -1 nor"),
        ({"program_hash": "a", "first_wrong": True}, "field first_wrong: True is neither"),
        ({"program_hash": "a", "token_logprobs": [1], "text_offset": []}, "must be lists of one length"),
        ({"program_hash": "a", "token_logprobs": [1], "text_offset": [0]}, "no token begins in step 1"),
        ({"program_hash": "z", "first_wrong": 0}, "no row is of this benchmark's 3 programs"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_scores(written(tmp_path, row), TRUTH)


def test_two_rows_of_one_program_and_other_files(tmp_path):
    row = {"program_hash": "a", "first_wrong": 0}
    with pytest.raises(DataError, match="row 2, field program_hash: a was there before"):
        read_scores(written(tmp_path, row, row), TRUTH)
    with pytest.raises(DataError, match="no such file"):
        read_scores(tmp_path / "none.jsonl", TRUTH)
    with pytest.raises(DataError, match=r"read from \.jsonl and \.parquet"):
        read_scores(tmp_path / "scores.csv", TRUTH)


def test_a_token_belongs_to_the_step_in_which_it_begins():
    row = {"token_logprobs": [-1, -2, -4], "text_offset": [100, 109, 110], "code_start": 100}
    assert step_logprobs(row, (10, 20), "row") == (-1.5, -4.0)


def test_reward_models_of_one_name_do_not_share_a_file(tmp_path):
    prms = [tmp_path / place for place in ("seed0/run/raw", "seed1/run/raw", "run/em")]
    outputs = _outputs(prms, tmp_path, {})
    assert list(outputs) == prms
    assert len(set(outputs.values())) == 3
    assert outputs[prms[2]] == tmp_path / "run-em.parquet"
