"""Candidate files: every format gives the same rows; candidates that cannot be judged are reported and kept."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest

from dreamprm_jax.problems.candidates import CandidateFile, read_candidates, write_samples
from dreamprm_jax.problems.json_rows import numbered_values
from dreamprm_jax.schema import DataError, Problem, Program
from dreamprm_jax.scoring.inputs import read_items
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
        ([], "contains no candidate"),
        ({"pass@1": 0.5}, "row 1: field problem_id: missing; the row has pass@1"),
        ([3], "row 1: must be a JSON object, not a number"),
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
        ({"question_id": 3.5, "code": A}, "row 2", "field question_id: must be a string, not a number"),
        ({"question_id": " ", "code": A}, "row 2", "field question_id: empty"),
        (
            {"task_id": "HumanEval/1", "solution": None},
            "HumanEval/1, sample 0",
            "field solution: must be a string, not null",
        ),
        ({"question_id": None, "code": A}, "row 2", "field problem_id: missing"),
        ({"question_id": "p"}, "row 2", "has none of the fields"),
        ({"question_id": "p", "code_list": None}, "row 2", "field code_list: must be a list, not null"),
        ({"question_id": "p", "code_list": [A], "graded_list": []}, "row 2", "field graded_list: must be a list of 1"),
        ({"question_id": "p", "code_list": [None]}, "p, sample 0", "field code_list[0]: must be a string, not null"),
        (
            {"question_id": "p", "output_list": [3]},
            "p, sample 0",
            "field output_list[0]: must be a string, not a number",
        ),
        ({"question_id": "p", "code": 1}, "p, sample 0", "field code: must be a string, not a number"),
        (
            {"question_id": "p", "code": A, "passed": "yes"},
            "p, sample 0",
            "field passed: must be true or false, not a string",
        ),
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


def test_lines_that_do_not_parse_are_named_skips(tmp_path):
    lines = [b"\xef\xbb\xbf" + json.dumps({"problem_id": "p", "code": A}).encode(), b"  ", b'{"problem_id": "p", "co',
             b'{"problem_id": NaN, "code": "x"}', json.dumps({"question_id": 7, "code": B}).encode(), b'"text"',
             b"\xff"]  # fmt: skip
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    found = read_candidates(path)
    assert summary(found) == [("p", 0, A, None), ("7", 0, B, None)]
    assert [(skip.row, skip.reason.split("(")[0].strip()) for skip in found.skips] == [
        ("row 3", "not valid JSON"),
        ("row 4", "field problem_id: must be a string, not a number"),
        ("row 6", "must be a JSON object, not a string"),
        ("row 7", "not valid JSON"),
    ]
    with pytest.raises(DataError, match=r"c\.jsonl, row 3: not valid JSON"):
        read_candidates(path, strict=True)


HEAD = "import math\n\n\ndef double(n):\n"
BODY = "    return 2 * n\n"
DOUBLE = Problem("HumanEval/0", "", "Twice n.", "humaneval", "", "2021-07-07T00:00:00", "easy", HEAD, "double")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"solution": HEAD + BODY}, HEAD + BODY),
        ({"completion": BODY}, HEAD + BODY),
        ({"completion": f"\n{BODY}\ndef g():\n    pass\n"}, f"{HEAD}\n{BODY}\ndef g():\n    pass\n"),
        ({"completion": HEAD + BODY, "solution": None}, HEAD + BODY),
        ({"completion": f"```python\n{HEAD}{BODY}```"}, HEAD + BODY),
        ({"solution": HEAD, "completion": BODY}, HEAD),
    ],
)  # fmt: skip
def test_samples_of_evalplus(tmp_path, row, code):
    path = write_jsonl(tmp_path / "samples.jsonl", [{"task_id": "HumanEval/0"} | row])
    found = read_candidates(path).completed({"HumanEval/0": DOUBLE})
    assert summary(found) == [("HumanEval/0", 0, code, None)]
    assert found.usable[0].program == Program.make("HumanEval/0", code, 0, "samples", {"file": "samples.jsonl"})
    write_samples(tmp_path / "written.jsonl", [one.program for one in found.usable])
    assert json.loads((tmp_path / "written.jsonl").read_text()) == {"task_id": "HumanEval/0", "solution": code}
    assert summary(read_candidates(tmp_path / "written.jsonl")) == summary(found)


def test_a_folder_of_samples(tmp_path):
    for name, code in (("HumanEval_0/10.py", B), ("HumanEval_0/9.py", A), ("BigCodeBench_7/0.py", C)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    (tmp_path / "HumanEval_0" / "notes.py").write_text("x")
    (tmp_path / "HumanEval_0" / "11.py").write_bytes(b"\xff")
    found = read_candidates(tmp_path)
    assert summary(found) == [("BigCodeBench/7", 0, C, None), ("HumanEval/0", 0, A, None), ("HumanEval/0", 1, B, None)]
    assert [skip.row for skip in found.skips] == ["HumanEval/0, sample 2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no candidate"):
        read_candidates(tmp_path / "empty")


def test_lists_of_programs_are_by_the_order_of_ids(tmp_path):
    path = write_json(tmp_path / "lists.json", [[A, B], [C], [None], []])
    problems = {name: dataclasses.replace(DOUBLE, problem_id=name) for name in ("q", "r", "p", "s")}
    found = read_candidates(path)
    assert found.problem_ids is None
    found = found.completed(problems)
    assert [(p, s, c) for p, s, c, _ in summary(found)] == [("p", 0, A), ("p", 1, B), ("q", 0, C)]
    assert found.unusable[0].program.problem_id == "r"
    assert found.problem_ids == {"p", "q", "r"}
    with pytest.raises(DataError, match="its 4 rows name no problem, and there are 2"):
        read_candidates(path).completed({"p": DOUBLE, "q": DOUBLE})


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


def test_the_same_rows_in_every_file_and_for_scoring(tmp_path):
    """One list of candidates in every kind of file. Judge and score read the same rows from each file."""
    problems = {one: Problem(one, "t", "s", "x", "", "", "") for one in ("HumanEval/2", "HumanEval/10")}
    rows = [{"task_id": name, "solution": code} for name in problems for code in (A, B)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    folder = tmp_path / "folder"
    for number, row in enumerate(rows):
        (folder / row["task_id"].replace("/", "_")).mkdir(parents=True, exist_ok=True)
        (folder / row["task_id"].replace("/", "_") / f"{number % 2}.py").write_text(row["solution"], "utf-8")
    results = {
        name: [{"task_id": name, "solution": code, "base_status": "pass"} for code in (A, B)] for name in problems
    }
    for name, opener in {"a.jsonl.gz": gzip.open, "a.jsonl.xz": lzma.open, "a.json.bz2": bz2.open}.items():
        with opener(tmp_path / name, "wt", encoding="utf-8") as handle:
            handle.write(lines)
    for name, text in {
        "a.jsonl": lines,
        "a.ndjson": lines,
        "a.json": lines,
        "list.json": json.dumps(rows, indent=2),
        "results.json": json.dumps({"date": "x", "eval": results}, indent=1),
        "lists.json": json.dumps([[A, B], [A, B]]),
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
    expected = [(name, sample, code) for name in problems for sample, code in enumerate((A, B))]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 10
    for path in files:
        found = read_candidates(path).completed(problems)
        assert sorted(one[:3] for one in summary(found)) == sorted(expected), path.name
        items = read_items(path, problems, path.name, 100)
        assert sorted((i.problem.problem_id, i.sample_index, i.code) for i in items) == sorted(expected), path.name
    assert {one.file_passed for one in read_candidates(tmp_path / "results.json").usable} == {True}
    with pytest.raises(DataError, match="its 2 rows name no problem"):
        list(read_items(tmp_path / "lists.json", {}, "", 100))


def test_several_samples_in_one_row(tmp_path):
    rows = [
        {"task_id": "HumanEval/0", "completion": [BODY, HEAD + BODY]},
        {"problem_id": "p", "code": [A, B], "passed": [1, False]},
        {"problem_id": "q", "code": None, "code_list": [A]},
    ]
    found = read_candidates(write_jsonl(tmp_path / "c.jsonl", rows)).completed({"HumanEval/0": DOUBLE})
    assert summary(found) == [
        ("HumanEval/0", 0, HEAD + BODY, None), ("HumanEval/0", 1, HEAD + BODY, None), ("p", 0, A, True),
        ("p", 1, B, False), ("q", 0, A, None),
    ]  # fmt: skip


def test_a_list_on_one_line_is_read_row_by_row(tmp_path):
    row = json.dumps({"problem_id": "p", "code": "#" * 500_000})
    (tmp_path / "one_line.json").write_text(f"[{','.join([row] * 40)}]")
    tracemalloc.start()
    assert sum(1 for _ in numbered_values(tmp_path / "one_line.json")) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the file has 20 million characters
