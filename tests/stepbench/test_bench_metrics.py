"""The metrics (accuracies, F1, threshold, baselines) on cases calculated by hand, and the commands on a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dreamprm_jax.cli import main as cli
from dreamprm_jax.schema import DataError, Program, TestedProblem
from dreamprm_jax.stepbench.metrics import MISSING, baselines, best_threshold, evaluate, predictions
from dreamprm_jax.stepbench.records import Bench, BenchPaths, Truth, read_bench
from dreamprm_jax.stepbench.scores import Said
from dreamprm_jax.storage import write_json, write_records

CODE = "def f():\n    pass\n\n\ndef g():\n    return 1\n\n\ndef h():\n    return 22\n"
ENDS = (18, 42, 70)


def bench_of(first_wrong: list[int], split: str = "test") -> dict[str, Truth]:
    rows = {}
    for index, first in enumerate(first_wrong):
        operator = "clean" if first < 0 else "wrong_return"
        key = f"{split}{index:03d}"
        rows[key] = Truth(f"{split}{index // 2}", key, split, first, ENDS, operator, "", -1, -1, "", "", "WA")
    return rows


def scores_for(rows: dict[str, Truth], low: float = 0.2, high: float = 0.8) -> Said:
    """A scorer that is always right at any threshold between ``low`` and ``high``."""
    return Said(
        {key: tuple(low if index == row.first_wrong else high for index in range(3)) for key, row in rows.items()},
        {},
        0,
    )


def test_a_perfect_scorer_and_a_reversed_one():
    rows = {**bench_of([0, -1, 2, -1] * 5, "dev"), **bench_of([0, -1, 1, -1, 2, -1] * 5)}
    bench = Bench({}, [], rows)
    result = evaluate(bench, "right", scores_for(rows), samples=50, seed=0)
    assert [one.estimate for one in (result.f1, result.accuracy_erroneous, result.accuracy_correct)] == [1.0, 1.0, 1.0]
    assert (result.f1.low, result.f1.high, result.missing) == (1.0, 1.0, 0)
    assert 0.2 < result.threshold <= 0.8
    assert result.by_place == {"between": (5, 1.0), "first step": (5, 1.0), "last step": (5, 1.0)}
    wrong = evaluate(bench, "reversed", scores_for(rows, 0.8, 0.2), samples=50, seed=0)
    assert wrong.accuracy_erroneous.estimate < 0.4


def test_by_hand():
    rows = bench_of([0, 1, 2, -1, -1, -1])
    keys = list(rows)
    said = Said(
        {keys[0]: (0.1, 0.9, 0.9), keys[1]: (0.4, 0.1, 0.9), keys[3]: (0.6, 0.6, 0.6)}, {keys[2]: 2, keys[4]: 0}, 0
    )
    assert predictions(list(rows.values()), said, 0.5).tolist() == [0, 0, 2, -1, 0, MISSING]
    result = evaluate(Bench({}, [], rows), "x", said, samples=200, seed=1, threshold=0.5)
    assert result.accuracy_erroneous.estimate == pytest.approx(2 / 3)
    assert result.accuracy_correct.estimate == pytest.approx(1 / 3)
    assert result.f1.estimate == pytest.approx(4 / 9)
    assert result.f1.low < 4 / 9 < result.f1.high
    assert result.missing == 1
    assert result.by_operator == {"wrong_return": (3, pytest.approx(2 / 3))}
    with pytest.raises(DataError, match="x: no score of the dev split"):
        evaluate(Bench({}, [], rows), "x", said, samples=10, seed=0)
    with pytest.raises(DataError, match="no program in its test split"):
        evaluate(Bench({}, [], {}), "x", said, samples=10, seed=0)


def test_the_threshold_is_where_f1_is_largest():
    rows = list(bench_of([0, 0, -1, -1], "dev").values())
    said = Said({row.program_hash: (low, 0.9, 0.9) for row, low in zip(rows, (0.1, 0.3, 0.2, 0.5), strict=True)}, {}, 0)
    # Threshold 0.5 finds both erroneous programs and flags one of two clean ones: F1 = 2/3. Threshold 0.2 finds one
    # erroneous program and flags no clean one: the same F1. The lower threshold is selected.
    assert best_threshold(rows, said) == 0.2


def test_baselines_have_their_exact_expectations():
    rows = {**bench_of([1, -1] * 10, "dev"), **bench_of([1, -1, 0, -1] * 10)}
    by_name = {result.name: result for result in baselines(Bench({}, [], rows), samples=50, seed=0)}
    nothing = by_name["always no error"]
    assert (nothing.f1.estimate, nothing.accuracy_erroneous.estimate, nothing.accuracy_correct.estimate) == (0, 0, 1)
    place = by_name["position"]  # on dev, the second step is always wrong; on test, half the time
    share = place.accuracy_correct.estimate
    assert place.accuracy_erroneous.estimate == pytest.approx((1 - share) / 2)
    assert share == pytest.approx(0.5, abs=0.011)
    random = by_name["random step"]
    share = random.accuracy_correct.estimate
    f1 = max(2 * q * (1 - q) / 3 / (q + (1 - q) / 3) for q in np.linspace(0, 1, 101))
    assert random.accuracy_erroneous.estimate == pytest.approx((1 - share) / 3)
    assert random.f1.estimate == pytest.approx(f1)
    assert by_name["longest step"].accuracy_erroneous.estimate == 0.0  # the third step is longest, never wrong


@pytest.fixture
def folder(tmp_path) -> Path:
    programs = [Program.make(f"p{i}", CODE + f"# {i}\n", 0, "stepbench", {}) for i in range(8)]
    programs.sort(key=lambda program: program.program_hash)
    rows = [
        Truth(
            program.problem_id, program.program_hash, "dev" if index < 4 else "test", index % 4 - 1, ENDS,
            "clean" if index % 4 == 0 else "wrong_return", "", -1, -1, "", "", "WA",
        )
        for index, program in enumerate(programs)
    ]  # fmt: skip
    paths = BenchPaths(tmp_path / "bench")
    names = [program.problem_id for program in programs]
    write_records(
        paths.problems,
        TestedProblem,
        [TestedProblem(n, "T", "Do it.", "codeio", "c", "2025-01-01", "easy") for n in names],
    )
    write_records(paths.programs, Program, programs)
    write_records(paths.truth, Truth, rows)
    write_json(paths.card, {})
    return paths.root


def test_the_commands(folder, tmp_path, capsys):
    export = tmp_path / "programs.jsonl"
    assert cli.main(["stepbench", "export", f"--bench={folder}", f"--output={export}"]) == 0
    exported = [json.loads(line) for line in export.read_text().splitlines()]
    assert set(exported[0]) == {"problem_id", "program_hash", "statement", "title", "platform", "code", "step_ends"}
    truth = read_bench(folder).truth
    scores, figures = tmp_path / "mine.jsonl", tmp_path / "figures.json"
    with open(scores, "w") as handle:
        for row in exported:
            right = [0.1 if i == truth[row["program_hash"]].first_wrong else 0.9 for i in range(3)]
            handle.write(json.dumps({"program_hash": row["program_hash"], "step_scores": right}) + "\n")
    arguments = ["--samples=50", f"--output={figures}"]
    assert cli.main(["stepbench", "score", f"--bench={folder}", f"--scores={scores}", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "test split: 3 erroneous programs, 1 clean, 4 problems" in shown
    assert any(line.startswith("mine") and "100.0 [100.0, 100.0]" in line for line in shown.splitlines())
    assert json.loads(figures.read_text())["mine"]["f1"]["estimate"] == 1.0


def test_bad_use(folder, tmp_path, capsys):
    assert cli.main(["stepbench", "score", f"--bench={tmp_path}"]) == 2
    assert cli.main(["stepbench", "export", f"--bench={folder}", f"--output={tmp_path / 'x.txt'}"]) == 2
    assert cli.main(["stepbench", "score", f"--bench={folder}", "--samples=0"]) == 2
    shown = capsys.readouterr().err
    assert "no StepBench here" in shown
    assert "must end in .jsonl" in shown
    assert "--samples 0: must be at least 1" in shown
    BenchPaths(folder).truth.unlink()
    with pytest.raises(DataError, match=r"truth\.parquet: no such file"):
        read_bench(folder)
