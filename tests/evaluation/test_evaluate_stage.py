import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dreamprm_jax.evaluation.hacking import hacking_row
from dreamprm_jax.evaluation.judged_candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.ranking import Method
from dreamprm_jax.labeling.exact_truth import load_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, Problem, Program, Score, StepLabel, Verdict
from dreamprm_jax.stages.evaluate import evaluate
from dreamprm_jax.storage import read_json, read_records, write_records


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
    # The mean of 4 Bernoulli draws has the squared error v (1 - v) / 4.
    truth_share = results["labels"]["counts"]["mean_value"]
    assert labels["raw"]["brier_value"] < truth_share * (1 - truth_share) / 4
    programs = len(read_records(run_folder.programs("train"), Program))
    labeled = len(read_records(run_folder.step_labels(), StepLabel))
    assert results["labels"]["counts"]["steps"] == labeled - programs  # last steps are exact and left out
    assert [note.split(":")[0] for note in results["notes"]] == ["mean log-probability"]
    assert results["skipped"] == []


def test_steps_that_the_arm_did_not_correct_are_named(copy, config):
    rows = read_records(copy.corrected_labels("corrected"), CorrectedLabel)
    last = {row.program_hash: row.step_index for row in rows}
    missing = next(row for row in rows if row.step_index < last[row.program_hash])
    kept = [row for row in rows if row.step_index < last[row.program_hash] and row != missing]
    write_records(copy.corrected_labels("corrected"), CorrectedLabel, kept)
    counts = evaluate(config, copy)
    assert counts["train steps with truth"] == len(kept)
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
        if path.name.endswith(".progress.json"):  # contains times
            continue
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
    copy.truth("test").unlink()
    counts = evaluate(without_truth, copy)
    results = read_json(copy.results())
    assert results["steps"] is None
    assert results["labels"] is None
    assert counts["test steps with truth"] == 0
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
        "import sys, dreamprm_jax.stages.evaluate, dreamprm_jax.stages.report, "
        "dreamprm_jax.selection.best_of_n\n"
        "print([m for m in ('jax', 'flax', 'optax', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_aggregator_is_chosen_on_the_meta_window_where_it_can_be(copy, config, capsys):
    """The arms' own logits are best at the last step. In this meta window, a low first step marks a wrong program."""
    auto = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, aggregator="auto", execute=False))
    evaluate(auto, copy)
    results = read_json(copy.results())
    assert results["aggregator"] == "sum_log_odds"
    assert (
        "nothing to choose on (no scores of the meta window by raw, corrected" in results["aggregator_choice"]["reason"]
    )
    assert "sum_log_odds kept" in capsys.readouterr().out

    problems = [Problem(f"m{i}", "", "", "x", "c", "2024-09-01", "easy") for i in range(30)]
    programs = [Program.make(p.problem_id, f"print({k})", k, "policy", {}) for p in problems for k in range(4)]
    write_records(copy.problems("meta"), Problem, problems)
    write_records(copy.programs("meta"), Program, programs)
    rng = np.random.default_rng(0)
    passed = {program.program_hash: program.sample_index == i // 4 % 4 for i, program in enumerate(programs)}
    verdicts = [Verdict.AC if good else Verdict.WA for good in passed.values()]
    write_records(
        copy.outcomes("meta"),
        Outcome,
        [
            Outcome(program.problem_id, program.program_hash, verdict, 0, 1, "", 0.1, "faithful", "T")
            for program, verdict in zip(programs, verdicts, strict=True)
        ],
    )
    for arm in ("raw", "corrected"):
        scores = []
        for program in programs:  # a low first step marks a wrong program; the last step is noise
            logits = (0.5 if passed[program.program_hash] else -3.0, 1.0 + 3 * rng.random(), float(rng.normal()))
            scores.append(Score(program.problem_id, program.program_hash, logits, logits, arm, "c"))
        write_records(copy.scores(arm, "meta"), Score, scores)
    evaluate(auto, copy)
    results = read_json(copy.results())
    choice = results["aggregator_choice"]
    assert results["aggregator"] == choice["name"] == "min"
    assert choice["accuracies"]["min"] > choice["accuracies"]["last"] + 0.3
    assert "chosen on 120 meta candidates of 30 problems, 30 with passing and failing" in choice["reason"]
    assert "aggregated by: min, automatic" in (copy.results().parent / "table.txt").read_text()
    raw = by_key(results["selection"]["table"])["raw"]["overall"]["estimate"]
    assert raw == pytest.approx(results["selection"]["aggregators"]["raw"]["min"])


def test_strategies_stand_beside_what_they_extend(evaluated, run_folder):
    strategies = evaluated[1]["strategies"]
    rows = by_key(strategies["table"])
    assert list(rows) == [
        *(
            "random",
            "orm",
            "raw",
            "corrected",
            "logprob_exact",
            "public",
            "public+orm",
            "public+raw",
            "public+corrected",
        ),
        *("prune2+orm", "prune2+raw", "prune2+corrected", "vote", "public_vote"),
        *("vote+orm", "vote+raw", "vote+corrected"),
    ]
    table = by_key(evaluated[1]["selection"]["table"])
    for name in ("random", "orm", "raw", "corrected"):
        assert rows[name]["overall"]["estimate"] == pytest.approx(table[name]["overall"]["estimate"])
    for row in rows.values():
        gap = row["overall"]["estimate"] - rows[row["against"]]["overall"]["estimate"]
        assert row["gain"]["estimate"] == pytest.approx(gap)
        assert row["gain_problems"] == pytest.approx(12 * gap)
    # the most common output is right more often than a random program is
    assert rows["vote"]["gain"]["estimate"] > 0.1
    assert (rows["vote"]["judged"], rows["vote"]["forwards"], rows["raw"]["judged"]) == (8, 0, 0)
    assert 1 <= rows["prune2+raw"]["judged"] <= 2
    curve = [row for row in strategies["curve"] if row["method"] == "vote"]
    assert [row["n"] for row in curve] == [1, 2, 4, 8]
    assert curve[0]["accuracy"] == pytest.approx(rows["random"]["overall"]["estimate"])
    assert curve[-1]["accuracy"] == pytest.approx(rows["vote"]["overall"]["estimate"])
    prune = strategies["prune"]["raw"]
    assert (prune[0]["judged"], prune[0]["accuracy"]) == (0, pytest.approx(table["raw"]["overall"]["estimate"]))
    assert prune[-1]["accuracy"] == pytest.approx(rows["public+raw"]["overall"]["estimate"])


def test_log_probabilities_are_a_baseline_where_the_policy_gave_them(copy, config):
    programs = read_records(copy.programs("test"), Program)
    outcomes = {row.program_hash: row.passed for row in read_records(copy.outcomes("test"), Outcome)}
    said = [
        dataclasses.replace(row, sampling=json.dumps({"mean_logprob": -0.1 if outcomes[row.program_hash] else -0.9}))
        for row in programs
    ]
    write_records(copy.programs("test"), Program, said)
    evaluate(dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, execute=False)), copy)
    results = read_json(copy.results())
    rows = by_key(results["strategies"]["table"])
    assert rows["logprob"]["solved"] == by_key(results["selection"]["table"])["oracle"]["solved"]
    assert not any(name.startswith("vote") for name in rows)
    assert "no votes: evaluate.execute is false" in results["notes"]
    assert rows["random"]["solved"] < rows["logprob_exact"]["solved"] <= rows["logprob"]["solved"]
    assert any(note.startswith("mean log-probability: as the simulated policy") for note in results["notes"])


def test_reward_hacking_by_hand():
    problem = Problem("p", "", "", "x", "c", "2025-01-01", "easy")
    programs = tuple(Program.make("p", str(k), k, "policy", {}) for k in range(3))
    # The highest score belongs to a program that passes only the public tests.
    one = Candidates(problem, programs, np.array([1.0, 0.0, 0.0]), {}, np.array([True, True, False]))
    method = Method("raw", "PRM", (np.array([1.0, 2.0, 0.0]),))
    row = hacking_row(method, [one], [1, 2, 3], "last", 50, 0)
    assert row["accuracy"] == pytest.approx([1 / 3, 1 / 3, 0])
    assert row["hacking_rate"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert row["hacking_rate_of_public"] == pytest.approx([1 / 2, 2 / 3, 1])
    assert row["score"] == sorted(row["score"])
    assert (row["peak_n"], row["drop"]["estimate"]) == (1, pytest.approx(1 / 3))
