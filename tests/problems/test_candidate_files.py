"""Candidate files: every format gives the same rows; what cannot be judged is named and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamprm_jax.problems.candidates import CandidateFile, read_candidates
from dreamprm_jax.schema import DataError, Program
from dreamprm_jax.storage import write_records

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "livecodebench"
A, B, C = "print(1)\n", "print(2)\n", "def f(:\n"


def summary(found: CandidateFile) -> list[tuple[str, int, str, bool | None]]:
    return [(c.program.problem_id, c.program.sample_index, c.program.code, c.file_passed) for c in found.usable]


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_eval_all(tmp_path):
    rows = [
        {"question_id": "p", "code_list": [A, B, A], "graded_list": [True, False, True], "platform": "x"},
        {"question_id": "q", "code_list": [C], "graded_list": [False]},
    ]
    found = read_candidates(write_json(tmp_path / "eval_all.json", rows))
    assert summary(found) == [("p", 0, A, True), ("p", 1, B, False), ("p", 2, A, True), ("q", 0, C, False)]
    assert found.duplicates == 1
    assert (found.unusable, found.skips) == ((), ())
    assert (found.usable[0].program.policy, found.usable[0].program.sampling) == (
        "eval_all",
        '{"file":"eval_all.json"}',
    )
    assert summary(read_candidates(write_jsonl(tmp_path / "same.jsonl", rows))) == summary(found)


def test_one_program_a_line_and_raw_answers(tmp_path):
    rows = [{"problem_id": "p", "code": A}, {"question_id": "p", "code": f"```python\n{B}```", "passed": True}]
    assert summary(read_candidates(write_jsonl(tmp_path / "c.jsonl", rows))) == [("p", 0, A, None), ("p", 1, B, True)]
    answers = [{"question_id": "p", "output_list": [f"First,\n```python\n{A}```\nso.", "no idea"]}]
    found = read_candidates(write_json(tmp_path / "out.json", answers))
    assert summary(found) == [("p", 0, A, None)]
    assert found.unusable[0].program.sample_index == 1


def test_our_parquet(tmp_path):
    programs = [Program.make("p", A, 0, "me", {"temperature": 0.2}), Program.make("p", B, 1, "me", {})]
    write_records(tmp_path / "programs.parquet", Program, programs)
    found = read_candidates(tmp_path / "programs.parquet")
    assert [candidate.program for candidate in found.usable] == programs


def test_empty_and_unstorable_candidates_are_named_and_kept_apart(tmp_path):
    rows = [{"question_id": "p", "code_list": ["", " \n", "x = '\ud800'", A], "graded_list": [False] * 3 + [True]}]
    found = read_candidates(write_json(tmp_path / "c.json", rows))
    assert summary(found) == [("p", 3, A, True)]
    assert [candidate.file_passed for candidate in found.unusable] == [False] * 3
    assert [(skip.source, skip.row, skip.reason) for skip in found.skips] == [
        ("c.json", "p, sample 0", "empty code: not judged, counts as failed"),
        ("c.json", "p, sample 1", "empty code: not judged, counts as failed"),
        ("c.json", "p, sample 2", "code with a lone surrogate: not judged, counts as failed"),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "holds no candidate"),
        ({"pass@1": 0.5}, "a JSON object where a list of rows belongs"),
        ([3], "row 1: a number where a JSON object belongs"),
    ],
)
def test_malformed_files_name_file_row_and_field(tmp_path, value, message):
    path = write_json(tmp_path / "c.json", value)
    with pytest.raises(DataError) as error:
        read_candidates(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        ({"code": A}, "row 2", "field problem_id: missing"),
        ({"question_id": 3, "code": A}, "row 2", "field question_id: a number where text belongs"),
        ({"question_id": None, "code": A}, "row 2", "field problem_id: missing"),
        ({"question_id": "p"}, "row 2", "has none of the fields"),
        ({"question_id": "p", "code_list": None}, "row 2", "field code_list: a null where a list belongs"),
        ({"question_id": "p", "code_list": [A], "graded_list": []}, "row 2", "field graded_list: must be a list of 1"),
        ({"question_id": "p", "code_list": [None]}, "p, sample 0", "field code_list[0]: a null where text belongs"),
        ({"question_id": "p", "output_list": [3]}, "p, sample 0", "field output_list[0]: a number where text belongs"),
        ({"question_id": "p", "code": 1}, "p, sample 0", "field code: a number where text belongs"),
        ({"question_id": "p", "code": A, "passed": "yes"}, "p, sample 0", "field passed: a string where true or false"),
    ],
)
def test_one_bad_cell_is_a_named_skip_and_with_strict_an_error(tmp_path, row, name, reason):
    path = write_json(tmp_path / "c.json", [{"question_id": "a", "code": A}, row, {"question_id": "z", "code": B}])
    found = read_candidates(path)
    ids = [candidate.program.problem_id for candidate in found.usable]
    assert (ids[0], ids[-1]) == ("a", "z")
    assert [skip.row for skip in found.skips] == [name]
    assert reason in found.skips[0].reason
    with pytest.raises(DataError) as error:
        read_candidates(path, strict=True)
    assert str(error.value).startswith(f"{path}, {name}: ")


def test_a_bad_cell_keeps_the_other_samples_and_numbers_are_verdicts(tmp_path):
    rows = [{"question_id": "p", "code_list": [A, None, B], "graded_list": [1, 0, 0]}]
    found = read_candidates(write_json(tmp_path / "c.json", rows))
    assert summary(found) == [("p", 0, A, True), ("p", 2, B, False)]
    assert [(c.program.sample_index, c.file_passed) for c in found.unusable] == [(1, False)]


def test_missing_and_unknown_files(tmp_path):
    for name, message in [("a.json", "no such file"), ("a.jsonl", "no such file"), ("a.txt", "are read from")]:
        with pytest.raises(DataError, match=message):
            read_candidates(tmp_path / name)


def test_the_real_file():
    path = SHARED / "candidates_o1_mini.json"
    if not path.exists():
        pytest.skip(f"{path} is not here: the 880 real programs are read from it")
    found = read_candidates(path)
    assert (len(found.usable), len(found.unusable), found.duplicates) == (874, 6, 0)
    assert sum(bool(c.file_passed) for c in found.usable) == 602
    assert not any(c.file_passed for c in found.unusable)
