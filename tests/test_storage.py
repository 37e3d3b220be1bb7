"""Records are written to Parquet and read back; files are complete or absent; errors name file, row and field."""

import dataclasses
import json
import typing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamprm_jax import schema
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, Score, StepLabel, TestCase, TestedProblem, Verdict
from dreamprm_jax.storage import (
    atomic_path,
    read_json,
    read_records,
    record_from_dict,
    write_json,
    write_records,
    write_text,
)

OUTCOME = Outcome("p", "h", Verdict.AC, 1, 2, "", 0.25, "faithful", "PORTABLE")
PROBLEM = Problem(
    "id", "Title", "Zeile\n\ttab é \U0001f600 \x00", "atcoder", "abc", "2024-01-01", "easy", "", None,
    (TestCase("1\n", "2\n"),),
)  # fmt: skip
TESTED = schema.TestedProblem(**vars(PROBLEM), private_tests=(TestCase("[1]", "2", "functional"), TestCase("", "")))
RECORDS = [
    OUTCOME,
    PROBLEM,
    dataclasses.replace(PROBLEM, func_name="solve", public_tests=()),
    TESTED,
    schema.ProblemTests("id", TESTED.private_tests),
    Program.make("p", "print('ü')\r\n", 3, "policy", {"temperature": 0.2, "b": [1, None]}),
    schema.Step(0, 0, 10, "main"),
    StepLabel("p", "h", 0, 0, 9, 2, 4, 1, 0, 3.0, 3.0, "policy", "{}", "lcb", "PORTABLE", "c"),
    schema.StepTruth("p", "h", 0, 0.125, True, False, -1),
    Score("p", "h", (-1.5, float("inf")), (0.2, 1.0), "raw", "raw/600"),
    schema.CorrectedLabel("p", "h", 1, 0.25, 0.75, "label_table"),
    schema.Skip("file", "3", "no tests"),
]


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.name.endswith(".tmp")]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_round_trip(tmp_path, record):
    path = tmp_path / "deep" / "rows.parquet"
    assert write_records(path, type(record), [record, record]) == 2
    assert read_records(path, type(record)) == [record, record]
    assert pq.read_schema(path).equals(schema.arrow_schema(type(record)), check_metadata=False)
    assert write_records(path, type(record), []) == 0
    assert read_records(path, type(record)) == []


def test_every_record_class_is_covered():
    classes = {cls for cls in vars(schema).values() if dataclasses.is_dataclass(cls)} - {TestCase}
    assert {type(record) for record in RECORDS} == classes
    for cls in classes:
        assert schema.arrow_schema(cls).names == [field.name for field in dataclasses.fields(cls)]
        for field in schema.arrow_schema(cls):
            assert field.nullable == (type(None) in typing.get_args(typing.get_type_hints(cls)[field.name]))


def test_extra_columns_and_their_order_do_not_matter(tmp_path):
    path = tmp_path / "rows.parquet"
    write_records(path, Outcome, [OUTCOME])
    table = pq.read_table(path)
    pq.write_table(table.select(table.column_names[::-1]).append_column("more", pa.array([1])), path)
    assert read_records(path, Outcome) == [OUTCOME]


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    with pytest.raises(DataError, match=r"rows\.parquet: no such file"):
        read_records(path, Outcome)
    path.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read_records(path, Outcome)
    write_records(path, Outcome, [OUTCOME])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read_records(path, Outcome)
    pq.write_table(pa.table({"problem_id": ["a"], "verdict": ["AC"]}), path)
    with pytest.raises(DataError, match=r"rows\.parquet: column\(s\) program_hash, tests_passed, .* missing"):
        read_records(path, Outcome)


def test_row_and_field_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [dataclasses.asdict(OUTCOME) | {"verdict": "AC"} for _ in range(3)]
    for field, value, message in (
        ("verdict", "OK", "row 2: verdict 'OK' is none of AC, WA, TLE, MLE, OLE, RE, CE, SANDBOX_ERROR, INVALID_TASK"),
        ("error", None, 'row 2: wrong value type for field "error"'),
    ):
        pq.write_table(pa.Table.from_pylist([*rows[:2], rows[2] | {field: value}]), path)
        with pytest.raises(DataError, match=f"rows.parquet, {message}"):
            read_records(path, Outcome)
    pq.write_table(pa.Table.from_pylist([row | {"tests_total": "2"} for row in rows]), path)
    with pytest.raises(DataError, match=r'rows\.parquet, row 0: wrong value type for field "tests_total".*"int"'):
        read_records(path, Outcome)


def test_record_from_dict_names_nested_fields():
    row = json.loads(json.dumps(dataclasses.asdict(TESTED)))
    assert record_from_dict(TestedProblem, row, "x") == TESTED
    assert TESTED.split() == (PROBLEM, schema.ProblemTests("id", TESTED.private_tests))
    row["private_tests"][1]["testtype"] = "file"
    with pytest.raises(DataError, match=r'a\.jsonl, row 7: wrong value type for field "private_tests\.testtype"'):
        record_from_dict(TestedProblem, row, "a.jsonl, row 7")
    del row["title"], row["private_tests"]
    with pytest.raises(DataError, match=r'a\.jsonl, row 7: missing value for field "title"'):
        record_from_dict(TestedProblem, row, "a.jsonl, row 7")


@pytest.mark.parametrize(
    ("field", "value"),
    [("error", None), ("error", "lone \ud800 surrogate"), ("tests_total", "two"), ("verdict", None)],
)
def test_value_that_cannot_be_stored_is_named(tmp_path, field, value):
    path = tmp_path / "rows.parquet"
    write_records(path, Outcome, [OUTCOME])
    with pytest.raises(DataError, match=rf"rows\.parquet, row 1, field '{field}': cannot be stored"):
        write_records(path, Outcome, [OUTCOME, dataclasses.replace(OUTCOME, **{field: value})])
    assert read_records(path, Outcome) == [OUTCOME]  # the earlier file is unchanged
    assert not leftovers(tmp_path)


def test_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": "ü"})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half of it", encoding="utf-8")
        assert read_json(path) == {"a": "ü"}
        raise RuntimeError("killed")
    assert read_json(path) == {"a": "ü"}
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": "ü"}
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "never.txt"):
        pass  # nothing is written, so no file appears
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_broken_json_is_named(tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(DataError, match=r"file\.json: no such file"):
        read_json(path)
    for data in (b"{", b"\xff\xfe", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"file\.json: not valid JSON"):
            read_json(path)


def test_hashes():
    assert schema.program_hash("p", "code") == schema.content_hash("p", "code")
    assert schema.program_hash("p", "code") != schema.program_hash("pc", "ode")  # parts are length-prefixed
    assert len(schema.program_hash("p", "\ud800")) == 32  # any text can be hashed
    assert schema.canonical_json({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'
    program = Program.make("p", "x", 0, "policy", {"b": 1, "a": 2})
    assert program.sampling == '{"a":2,"b":1}'


def test_verdicts_that_are_labels():
    labels = [verdict for verdict in Verdict if verdict.is_label]
    assert labels == [Verdict.AC, Verdict.WA, Verdict.TLE, Verdict.MLE, Verdict.OLE, Verdict.RE, Verdict.CE]
    assert [verdict for verdict in Verdict if dataclasses.replace(OUTCOME, verdict=verdict).passed] == [Verdict.AC]


def test_label_mean():
    (label,) = (record for record in RECORDS if isinstance(record, StepLabel))
    assert label.mean == 0.5
    assert dataclasses.replace(label, rollouts=0, passes=0).mean != dataclasses.replace(label, rollouts=0).mean  # NaN
