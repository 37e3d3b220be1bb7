import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dreamprm_jax.evaluation.candidates import load_candidates
from dreamprm_jax.evaluation.stage import evaluate
from dreamprm_jax.evaluation.truth import load_truth
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, Program, Score, StepLabel, Verdict
from dreamprm_jax.storage import read_json, read_records, write_records
from dreamprm_jax.workdir import Paths


@pytest.fixture(scope="module")
def evaluated(run_folder, config):
    counts = evaluate(config, run_folder)
    return counts, read_json(run_folder.results())


@pytest.fixture
def copy(run_folder, tmp_path):
    shutil.copytree(run_folder.root, tmp_path / "run")
    return Paths(tmp_path / "run")


def by_key(rows, name="method"):
    return {row[name]: row for row in rows}


def test_the_table_is_the_mean_over_problems_of_each_pick(evaluated, run_folder, config):
    counts, results = evaluated
    outcomes = {row.program_hash: row.passed for row in read_records(run_folder.outcomes("test"), Outcome)}
    programs = read_records(run_folder.programs("test"), Program)
    scores = {row.program_hash: row.step_logits[-1] for row in read_records(run_folder.scores("raw"), Score)}
    picks, rates, solvable = [], [], []
    for problem in dict.fromkeys(program.problem_id for program in programs):
        own = [program.program_hash for program in programs if program.problem_id == problem]
        best = max(scores[key] for key in own)
        picks.append(np.mean([outcomes[key] for key in own if scores[key] == best]))
        rates.append(np.mean([outcomes[key] for key in own]))
        solvable.append(any(outcomes[key] for key in own))
    table = by_key(results["selection"]["table"])
    assert list(table) == ["random", "orm", "raw", "corrected", "oracle"]
    assert table["raw"]["overall"]["estimate"] == pytest.approx(np.mean(picks))
    assert table["raw"]["solved"] == pytest.approx(sum(picks))
    assert table["random"]["overall"]["estimate"] == pytest.approx(np.mean(rates))
    assert table["oracle"]["overall"]["estimate"] == pytest.approx(np.mean(solvable))
    assert table["oracle"]["recovered_share"]["estimate"] == 1.0
    assert counts["problems"] == 12
    assert counts["candidates"] == 96
    groups = results["selection"]["counts"]
    assert groups == {"easy": 4, "medium": 4, "hard": 4, "overall": 12}
    for row in table.values():
        assert np.mean([row[name] for name in ("easy", "medium", "hard")]) == pytest.approx(row["overall"]["estimate"])
        assert row["overall"]["low"] <= row["overall"]["estimate"] <= row["overall"]["high"]


def test_curve_starts_at_random_and_ends_at_the_table(evaluated):
    selection = evaluated[1]["selection"]
    table = by_key(selection["table"])
    assert selection["curve"]["k"] == [1, 2, 4, 8]
    for method, points in selection["curve"]["methods"].items():
        assert points[0]["estimate"] == pytest.approx(table["random"]["overall"]["estimate"])
        assert points[-1] == table[method]["overall"]


def test_differences_are_paired_and_count_problems(evaluated):
    selection = evaluated[1]["selection"]
    table = by_key(selection["table"])
    pairs = {(row["method"], row["against"]): row for row in selection["differences"]}
    assert set(pairs) == {
        *((arm, "random") for arm in ("orm", "raw", "corrected")),
        ("orm", "raw"),
        ("corrected", "raw"),
    }
    for (method, against), row in pairs.items():
        gap = table[method]["overall"]["estimate"] - table[against]["overall"]["estimate"]
        assert row["estimate"] == pytest.approx(gap)
        assert row["problems"] == pytest.approx(12 * gap)
        assert row["low"] <= gap <= row["high"]
        assert 0 <= row["p_value"] <= 1
    row = pairs["corrected", "raw"]
    assert row["wins"] - row["losses"] == pytest.approx(row["problems"])


def test_step_and_label_figures_recover_the_noise_that_was_put_in(evaluated, run_folder):
    _, results = evaluated
    steps, labels = by_key(results["steps"]["table"], "key"), by_key(results["labels"]["table"], "key")
    order = [steps[name]["auroc_recoverable"]["estimate"] for name in ("orm", "raw", "corrected")]
    assert order == sorted(order)
    assert steps["corrected"]["auroc_recoverable_minus_raw"]["low"] > 0
    assert steps["corrected"]["brier_value"] < steps["raw"]["brier_value"] < steps["orm"]["brier_value"]
    assert "brier_value" not in steps["position"]
    assert labels["corrected"]["brier_value"] < labels["raw"]["brier_value"]
    # a mean of 4 binomial draws has a squared error of v (1 - v) / 4
    truth_share = results["labels"]["counts"]["mean_value"]
    assert labels["raw"]["brier_value"] < truth_share * (1 - truth_share) / 4
    programs = len(read_records(run_folder.programs("train"), Program))
    labelled = len(read_records(run_folder.step_labels(), StepLabel))
    assert results["labels"]["counts"]["steps"] == labelled - programs  # last steps are exact, and left out
    assert results["notes"] == []
    assert results["skipped"] == []


def test_steps_that_the_arm_did_not_correct_are_named(copy, config):
    rows = read_records(copy.corrected_labels("corrected"), CorrectedLabel)
    last = {row.program_hash: row.step_index for row in rows}
    missing = next(row for row in rows if row.step_index < last[row.program_hash])
    kept = [row for row in rows if row.step_index < last[row.program_hash] and row != missing]
    write_records(copy.corrected_labels("corrected"), CorrectedLabel, kept)
    counts = evaluate(config, copy)
    assert counts["train_steps_with_truth"] == len(kept)
    assert read_json(copy.results())["skipped"] == [
        {"source": "corrected_labels", "reason": "no label from corrected", "count": 1}
    ]


def test_files_are_strict_json_and_csv_and_the_text_fits(evaluated, run_folder):
    folder = run_folder.results().parent

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(run_folder.results().read_text(), parse_constant=refuse)
    text = (folder / "table.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "PRM, corrected labels" in text
    with open(folder / "candidates.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 96
    assert {"problem_id", "passed", "orm", "raw", "corrected"} <= set(rows[0])


def test_running_again_gives_the_same_bytes(evaluated, run_folder, copy, config):
    evaluate(config, copy)
    for path in sorted(run_folder.results().parent.iterdir()):
        assert (copy.results().parent / path.name).read_bytes() == path.read_bytes(), path.name


def test_verdicts_that_are_no_labels_and_missing_rows_are_named_and_counted(copy, config, capsys):
    outcomes = read_records(copy.outcomes("test"), Outcome)
    hurt, lost, unscored = outcomes[0], outcomes[1], outcomes[2]
    rows = [dataclasses.replace(hurt, verdict=Verdict.SANDBOX_ERROR), *outcomes[2:]]
    write_records(copy.outcomes("test"), Outcome, rows)
    scores = [row for row in read_records(copy.scores("raw"), Score) if row.program_hash != unscored.program_hash]
    write_records(copy.scores("raw"), Score, scores)
    counts = evaluate(config, copy)
    results = read_json(copy.results())
    reasons = {(row["source"], row["reason"]): row["count"] for row in results["skipped"]}
    assert reasons["outcomes_test", "verdict SANDBOX_ERROR"] >= 1
    assert reasons["outcomes_test", "not judged"] >= 1
    assert reasons["score_raw", "no score: ranks last"] >= 1
    assert counts["skipped"] == sum(reasons.values())
    assert counts["candidates"] == 96 - sum(n for (source, _), n in reasons.items() if source == "outcomes_test")
    assert "problems have fewer than 8" in results["notes"][0]
    skipped = (copy.results().parent / "skipped.csv").read_text()
    assert all(row.program_hash[:12] in skipped for row in (hurt, lost, unscored))
    assert "verdict SANDBOX_ERROR" in capsys.readouterr().out
    kept = {program.program_hash for one in load_candidates(copy, "test", ())[0] for program in one.programs}
    assert not {hurt.program_hash, lost.program_hash} & kept
    assert unscored.program_hash in kept


def test_real_problems_have_no_truth_and_the_output_says_so(copy, without_truth, capsys):
    shutil.rmtree(copy.results().parent)
    counts = evaluate(without_truth, copy)
    results = read_json(copy.results())
    assert results["steps"] is None
    assert results["labels"] is None
    assert counts["test_steps_with_truth"] == 0
    assert "no exact truth" in capsys.readouterr().out
    assert not copy.truth("test").exists()


def test_the_truth_is_made_once_and_kept(copy, config):
    rows = load_truth(config, copy, "test")
    copy.truth("test").unlink()
    assert load_truth(config, copy, "test") == rows
    assert copy.truth("test").exists()


def test_missing_and_inconsistent_files_are_named(copy, config):
    programs = read_records(copy.programs("test"), Program)
    stray = dataclasses.replace(programs[0], problem_id="unknown")
    write_records(copy.programs("test"), Program, [*programs, stray])
    with pytest.raises(DataError, match=r"programs_test.parquet, row 96: problem_id 'unknown'"):
        evaluate(config, copy)
    copy.scores("orm").unlink()
    with pytest.raises(DataError, match=r"orm.parquet: no such file"):
        evaluate(config, copy)


def test_no_verdict_at_all_is_an_error(copy, config):
    rows = read_records(copy.outcomes("test"), Outcome)
    write_records(copy.outcomes("test"), Outcome, [dataclasses.replace(r, verdict=Verdict.INVALID_TASK) for r in rows])
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(config, copy)


def test_evaluation_and_report_import_no_jax():
    code = (
        "import sys, dreamprm_jax.evaluation.stage, dreamprm_jax.evaluation.report.stage, "
        "dreamprm_jax.selection.best_of_n\n"
        "print([m for m in ('jax', 'flax', 'optax', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
