"""``dreamprm judge``: input files, verdicts, the summary, and an exit status that shows whether all were judged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.cli.main import main


def problem(problem_id: str, tests: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "question_title": problem_id,
        "question_content": "Add.",
        "platform": "atcoder",
        "question_id": problem_id,
        "contest_id": "c",
        "contest_date": "2024-01-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": "[]",
        "metadata": "{}",
    }


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    test = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
    path.write_text("".join(json.dumps(problem(name, [test])) + "\n" for name in ("a", "b")))
    return path


def candidates(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(rows))
    return path


SUM = "print(sum(map(int, input().split())))"


def test_verdicts_and_summary(tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question_id": "a", "code_list": [SUM, "print(4)"], "graded_list": [True, True]},
        {"question_id": "b", "code_list": [SUM], "graded_list": [True]},
    ]
    out = tmp_path / "out.jsonl"
    arguments = ["judge", f"--problems={problems}", f"--candidates={candidates(tmp_path, rows)}", f"--output={out}"]
    assert main([*arguments, "--mode=faithful", "--workers=1", f"--cache={tmp_path / 'cache'}"]) == 0
    text = capsys.readouterr().out
    assert "3 programs judged, mode faithful, tier PORTABLE" in text
    assert "passed 2 of 3 with a verdict: 66.7%" in text
    assert "agree with the file's own verdict: 2 of 3" in text
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["problem_id"], row["sample_index"], row["verdict"]) for row in written] == [
        ("a", 0, "AC"),
        ("a", 1, "WA"),
        ("b", 0, "AC"),
    ]


def test_a_stopped_command_goes_on(tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question_id": "a", "code_list": [SUM, "print(4)", SUM]}, {"question_id": "b", "code_list": [SUM]}]
    out = tmp_path / "out.jsonl"
    files = [f"--problems={problems}", f"--candidates={candidates(tmp_path, rows)}", f"--output={out}", "--workers=1"]
    assert main(["judge", *files]) == 0
    whole = out.read_text().splitlines()
    assert len(whole) == 4
    kept = json.loads(whole[1]) | {"error": "from the earlier run"}
    out.write_text(json.dumps(kept) + "\n" + whole[2] + "\n" + whole[3][:40])  # as if killed while writing
    assert main(["judge", *files]) == 0
    assert "2 of them by an earlier run" in capsys.readouterr().out
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted((row["problem_id"], row["sample_index"], row["verdict"]) for row in again) == [
        ("a", 0, "AC"),
        ("a", 1, "WA"),
        ("a", 2, "AC"),
        ("b", 0, "AC"),
    ]
    assert sum(row["error"] == "from the earlier run" for row in again) == 1
    # With different limits or --no-resume, nothing is reused.
    for more in ("--cpu-seconds=5", "--no-resume"):
        assert main(["judge", *files, more]) == 0
        assert "earlier run" not in capsys.readouterr().out
        assert len(out.read_text().splitlines()) == 4


def test_verdicts_are_written_as_they_come(tmp_path: Path, problems: Path) -> None:
    out = tmp_path / "out.jsonl"
    slow = "import time\ntime.sleep(60)"
    path = candidates(tmp_path, [{"question_id": "a", "code_list": [SUM, slow]}])
    arguments = ["judge", f"--problems={problems}", f"--candidates={path}", f"--output={out}", "--workers=1"]
    start = "from dreamprm_jax.cli.main import main; main()"
    command = [sys.executable, "-c", start, *arguments, "--mode=faithful", "--wall-seconds=60"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_text().endswith("\n")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.poll() is None
        assert [json.loads(line)["verdict"] for line in out.read_text().splitlines()] == ["AC"]
    finally:
        process.kill()
        process.wait()


def test_terminal_escapes_do_not_reach_the_terminal(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question_id": "a", "code_list": [SUM]}, {"question_id": "\x1b[31mred", "code_list": [""]}]
    main(["judge", f"--problems={problems}", f"--candidates={candidates(tmp_path, rows)}", "--workers=1"])
    said = capsys.readouterr()
    assert "[31mred" in said.out
    assert "\x1b[31m" not in said.out + said.err


def test_candidates_that_cannot_be_judged_are_counted(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question_id": "a", "code_list": [SUM, ""]}, {"question_id": "elsewhere", "code_list": [SUM]}]
    arguments = ["judge", f"--problems={problems}", f"--candidates={candidates(tmp_path, rows)}", "--workers=1"]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "without usable code (not judged): 1" in text
    assert "of unknown problems (not judged): 1" in text
    assert "problems without a candidate: 1" in text


@pytest.mark.parametrize(
    ("problem_name", "candidate_name", "part"),
    [
        ("missing.jsonl", "candidates.json", "missing.jsonl: no such file"),
        ("problems.jsonl", "missing.json", "missing.json: no such file"),
        ("problems.jsonl", "other.json", "no candidate belongs to a problem of"),
        ("candidates.json", "candidates.json", "candidates.json"),
    ],
)
def test_unusable_input_is_an_error(
    tmp_path: Path,
    problems: Path,
    capsys: pytest.CaptureFixture[str],
    problem_name: str,
    candidate_name: str,
    part: str,
) -> None:
    candidates(tmp_path, [{"question_id": "a", "code_list": [SUM]}])
    (tmp_path / "other.json").write_text(json.dumps([{"question_id": "elsewhere", "code_list": [SUM]}]))
    arguments = ["judge", f"--problems={tmp_path / problem_name}", f"--candidates={tmp_path / candidate_name}"]
    assert main(arguments) == 2
    assert part in capsys.readouterr().err


def test_a_factor_needs_the_time_of_a_reference(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = candidates(tmp_path, [{"question_id": "a", "code_list": [SUM]}])
    arguments = ["judge", f"--problems={problems}", f"--candidates={path}", "--workers=1", "--reference-factor=4"]
    assert main(arguments) == 2
    assert "no problem of" in (said := capsys.readouterr().err)
    assert "reference_seconds" in said
    rows = [json.loads(line) | {"reference_seconds": 0.01} for line in problems.read_text().splitlines()]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(arguments) == 0
