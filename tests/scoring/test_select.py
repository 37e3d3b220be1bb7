"""Selection by scores: `dreamprm select` and `dreamprm evaluate` on files, without a run."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from dreamprm_jax.cli import main as cli
from dreamprm_jax.evaluation.user_candidates import read_scores, read_verdicts
from dreamprm_jax.schema import DataError, program_hash
from dreamprm_jax.selection.best_of_n import best_of_k
from dreamprm_jax.storage import read_json, read_table


def program(factor: int) -> str:
    return f"def read():\n    return int(input())\n\n\ndef main():\n    print({factor} * read())\n\n\nmain()\n"


def problem(number: int) -> dict:
    cases = [{"input": f"{n}\n", "output": f"{2 * n}\n", "testtype": "stdin"} for n in (1, 2, 3)]
    return {
        "question_title": "Double", "question_content": "Print twice the number.", "platform": "atcoder",
        "question_id": f"p/{number}", "contest_id": "c", "contest_date": "2024-05-01T00:00:00", "starter_code": "",
        "difficulty": ("easy", "hard")[number % 2], "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": json.dumps(cases[1:]), "metadata": "{}",
    }  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Twelve problems with three programs each (factors 1, 2, 3; 2 is right), and scores that prefer the third."""
    problems, candidates, scores = (tmp_path / name for name in ("problems.jsonl", "candidates.json", "scores.jsonl"))
    problems.write_text("".join(json.dumps(problem(n)) + "\n" for n in range(12)))
    codes = [program(factor) for factor in (1, 2, 3)]
    rows = [{"question_id": f"p/{n}", "code_list": codes, "graded_list": [False, True, False]} for n in range(12)]
    candidates.write_text(json.dumps(rows))
    lines = [
        {"problem_id": f"p/{n}", "program_hash": program_hash(f"p/{n}", code), "step_logits": [-n, index], "model": "m"}
        for n in range(12)
        for index, code in enumerate(codes)
    ]
    scores.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return problems, candidates, scores


def run(command: str, files, tmp_path, output: str, *options: str) -> int:
    problems, candidates, scores = files  # noqa: RUF059
    names = [f"--candidates={candidates}", f"--scores={scores}", f"--output={tmp_path / output}"]
    return cli.main([command, *names, "--aggregator=last", *options])


def test_select_writes_what_the_ending_says(files, tmp_path, capsys):
    assert run("select", files, tmp_path, "best") == 0
    assert (tmp_path / "best" / "p_3.py").read_text() == program(3)
    assert len(list((tmp_path / "best").iterdir())) == 12
    for ending in ("json", "jsonl", "csv", "parquet"):
        assert run("select", files, tmp_path, f"best.{ending}") == 0
    chosen = json.loads((tmp_path / "best.json").read_text())
    assert chosen[0] == {"question_id": "p/0", "code_list": [program(3)]}
    table = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert [row["sample_index"] for row in table] == [2] * 12
    assert read_table(tmp_path / "best.jsonl") == table
    with open(tmp_path / "best.csv", newline="") as handle:
        assert [row["code"] for row in csv.DictReader(handle)] == [program(3)] * 12
    shown = capsys.readouterr().out
    assert "p/0: candidate 2 of 3, 0.881" in shown
    assert "and 2 more" in shown
    assert run("select", files, tmp_path, "best") == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert run("select", files, tmp_path, "best.txt") == 2


def test_public_tests_come_before_the_score(files, tmp_path, capsys):
    options = (f"--problems={files[0]}", "--public-tests", "--mode=faithful", "--workers=1")
    assert run("select", files, tmp_path, "best.jsonl", *options) == 0
    assert [row["code"] for row in read_table(tmp_path / "best.jsonl")] == [program(2)] * 12
    assert "12 choices pass the public tests" in capsys.readouterr().out
    checker = tmp_path / "none.py"
    checker.write_text("def none(given, expected, answer):\n    return False\n")
    assert run("select", files, tmp_path, "none.jsonl", *options, f"--checker={checker}:none") == 0
    assert "0 choices pass the public tests" in capsys.readouterr().out
    assert run("select", files, tmp_path, "other.jsonl", "--public-tests") == 2
    assert "needs the tests of --problems" in capsys.readouterr().err


def test_an_aggregator_and_a_candidate_without_a_score(files, tmp_path, capsys):
    problems, candidates, scores = files  # noqa: RUF059
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:2] + lines[3:]) + "\n")  # the third program of p/0 has no score
    assert run("select", files, tmp_path, "best.jsonl", "--aggregator=sum_log_odds") == 0
    rows = read_table(tmp_path / "best.jsonl")
    assert [row["sample_index"] for row in rows] == [1] + [2] * 11
    assert (rows[0]["scored"], rows[0]["candidates"]) == (2, 3)
    assert run("select", files, tmp_path, "strict.jsonl", "--strict") == 2
    assert "p/0, program" in capsys.readouterr().err


def test_select_and_evaluate_with_a_model(prm_folder, files, tmp_path, capsys):
    problems, candidates, _ = files
    options = [f"--candidates={candidates}", f"--problems={problems}", f"--prm={prm_folder}", "--batch-tokens=4096"]
    options.append("--aggregator=last")
    assert cli.main(["select", *options, f"--output={tmp_path / 'best.csv'}"]) == 0
    scores = read_scores(tmp_path / "best.csv.scores.parquet")
    assert (scores.model, len(scores.logits)) == (prm_folder.name, 36)
    assert cli.main(["evaluate", *options, f"--output={tmp_path / 'out'}", "--samples=200"]) == 0
    results = read_json(tmp_path / "out" / "results.json")
    assert results["arms"] == [prm_folder.name]
    logits = [[scores.logits["p/0", program_hash("p/0", program(f))][-1] for f in (1, 2, 3)]]
    solved = [row["overall"]["estimate"] for row in results["selection"]["table"]]
    assert solved == pytest.approx([1 / 3, best_of_k(list(logits[0]), [0, 1, 0], 3), 1.0])


def test_evaluate_gives_the_whole_table(files, tmp_path, capsys):
    problems, candidates, scores = files  # noqa: RUF059
    better = tmp_path / "better.jsonl"
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    better.write_text("".join(json.dumps(r | {"step_logits": [-abs(r["step_logits"][1] - 1)]}) + "\n" for r in rows))
    options = [f"--scores={better}", f"--problems={problems}", "--samples=200"]
    assert run("evaluate", files, tmp_path, "out", *options) == 0
    results = read_json(tmp_path / "out" / "results.json")
    table = {row["method"]: row for row in results["selection"]["table"]}
    assert [table[name]["overall"]["estimate"] for name in ("random", "m", "better", "oracle")] == [
        pytest.approx(1 / 3), 0.0, 1.0, 1.0,
    ]  # fmt: skip
    assert table["better"]["easy"] == 1.0
    shown = capsys.readouterr().out
    for title in ("Best of 3, %", "Paired differences", "Aggregators", "Reward hacking"):
        assert title in shown
    assert "DreamPRM-Code" not in shown  # the paper's rows are only for LiveCodeBench
    assert {"table.txt", "candidates.csv", "eval_all.json", "skipped.csv"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_verdicts_of_the_judge_and_public_tests(files, tmp_path, capsys):
    problems, candidates, scores = files  # noqa: RUF059
    plain = json.loads(candidates.read_text())
    candidates.write_text(json.dumps([{k: v for k, v in row.items() if k != "graded_list"} for row in plain]))
    assert run("evaluate", files, tmp_path, "out") == 2
    assert "no candidate has a verdict" in capsys.readouterr().err
    for ending in ("jsonl", "csv", "parquet"):
        verdicts = tmp_path / f"verdicts.{ending}"
        judging = ["judge", f"--problems={problems}", f"--candidates={candidates}", "--mode=faithful", "--workers=1"]
        assert cli.main([*judging, f"--output={verdicts}"]) == 0
        options = (f"--verdicts={verdicts}", f"--problems={problems}", "--samples=200")
        assert run("evaluate", files, tmp_path, f"out-{ending}", *options) == 0
    first, *others = (read_json(tmp_path / f"out-{e}" / "results.json") for e in ("jsonl", "csv", "parquet"))
    assert others == [first, first]
    strategies = {row["method"]: row["overall"]["estimate"] for row in first["strategies"]["table"]}
    assert (strategies["m"], strategies["public+m"]) == (0.0, 1.0)


def test_what_is_missing_is_named(files, tmp_path, capsys):
    problems, candidates, scores = files  # noqa: RUF059
    scores.write_text('{"problem_id": "p/0", "program_hash": "x", "step_logits": [1.0]}\n')
    assert run("select", files, tmp_path, "best.csv") == 2
    assert "belongs to a candidate" in capsys.readouterr().err
    scores.write_text('{"problem_id": "p/0", "program_hash": "x"}\n')
    with pytest.raises(DataError, match=r"scores.jsonl, row 1, field step_logits: missing"):
        read_scores(scores)
    scores.write_text('{"problem_id": "p/0", "program_hash": "x", "step_logits": ["a"]}\n')
    with pytest.raises(DataError, match=r"field step_logits: must be a list of numbers"):
        read_scores(scores)
    scores.write_text("{\n")
    with pytest.raises(DataError, match=r"scores.jsonl, row 1: not valid JSON"):
        read_scores(scores)
    for command in ("select", "evaluate"):
        assert cli.main([command, f"--candidates={candidates}", f"--output={tmp_path / 'o.csv'}"]) == 2
        assert "--scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_scores, {"step_logits": [10**400]}, "field step_logits: must be a list of numbers"),
        (read_scores, {"step_logits": "[" * 100_000}, "field step_logits: must be a list of numbers"),
        (read_scores, "[" * 100_000, "not valid JSON"),
        (read_scores, "1" * 5000, "not valid JSON"),
        (read_scores, "[1]", "must be a JSON object"),
        (read_verdicts, {"verdict": "OK"}, "field verdict: 'OK'; must be one of AC, WA"),
        (read_verdicts, {"verdict": "AC", "tests_passed": []}, r"field tests_passed: \[\] is no number of tests"),
        (read_verdicts, {"verdict": "AC", "tests_passed": float("inf")}, "field tests_passed: inf is no number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_field(read, row, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps({"problem_id": "p", "program_hash": "h"} | row))
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1.*{message}"):
        read(path)


def test_a_table_with_a_byte_order_mark(tmp_path):
    (tmp_path / "scores.csv").write_text("\ufeffproblem_id,program_hash,step_logits\np,h,[1.0]\n", encoding="utf-8")
    assert list(read_scores(tmp_path / "scores.csv").logits) == [("p", "h")]


def test_few_problems_have_no_interval(files, tmp_path, capsys):
    problems, candidates, scores = files  # noqa: RUF059
    candidates.write_text(json.dumps(json.loads(candidates.read_text())[:9]))
    assert run("evaluate", files, tmp_path, "out", "--samples=200") == 0
    shown = capsys.readouterr().out
    assert "too few for intervals" in shown
    assert "[" not in shown.partition("left out")[0].replace("[-", "[")
    results = read_json(tmp_path / "out" / "results.json")
    assert results["selection"]["table"][1]["overall"]["low"] is None
