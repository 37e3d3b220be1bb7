"""The study on CodeI/O variants: real references, real runs, exact truth by enumeration."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import SandboxConfig, StepDataConfig
from dreamprm_jax.labeling.step_files import read_steps
from dreamprm_jax.metrics.statistics import resampled_counts
from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.problems.codeio import read_tasks
from dreamprm_jax.schema import DataError
from research.study import codeio_cli, codeio_files, codeio_measure
from research.study.codeio import CodeioSettings, Steps, _replicates, draw_steps, mistake_weights
from research.study.codeio_variants import Limits, read_variants
from research.study.measures import label_measures
from research.study.regimes import regime

IDS = ("codeio/0120", "codeio/1643", "codeio/1473", "codeio/2409")
LIMITS = Limits(problems=4, wrong_variants=1, combinations=8)
SETTINGS = CodeioSettings(
    limits=LIMITS,
    seeds=(0, 1),
    programs=8,
    regimes=("k1", "weak_tests"),
    labelings=("raw", "em", "undetected_fault", "calibrator"),
    clean_problems=2,
    bootstrap_samples=50,
    workers=2,
)


@pytest.fixture(scope="module")
def tasks():
    try:
        return {task.task_id: task for task in read_tasks() if task.task_id in IDS}
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codeio")
    problems, left_out = read_variants(folder / "work", LIMITS, 0, SandboxConfig(workers=2), list(tasks.values()))
    return folder, problems, left_out


def test_variants_are_single_faults_and_every_combination_has_its_verdict(made, tasks):
    _, problems, left_out = made
    assert sorted(one.problem_id for one in problems) == sorted(IDS)
    assert not left_out.tally.dropped
    assert not left_out.problems
    for one in problems:
        shape = one.tests_passed.shape
        assert shape == tuple(map(len, one.texts))
        assert max(shape) == 2
        assert shape.count(2) >= 2
        reference = tasks[one.problem_id].reference
        original = (0,) * len(shape)
        assert one.program(original) == reference
        assert one.tests_passed[original] == one.tests == 20
        for step, count in enumerate(shape):
            if count == 2:
                faulty = tuple(int(axis == step) for axis in range(len(shape)))
                code = one.program(faulty)
                assert not one.passed()[faulty]
                before, after = split_steps(reference), split_steps(code)
                assert [s.name for s in before] == [s.name for s in after]
                changed = [
                    reference[a.start : a.end] != code[b.start : b.end] for a, b in zip(before, after, strict=True)
                ]
                assert [index for index, differs in enumerate(changed) if differs] == [step]


def test_the_truth_is_that_of_enumeration(made):
    """Compares V and recoverability of every prefix of every combination with sums over all single completions."""
    for one in made[1]:
        weights = mistake_weights(one, SETTINGS)
        for choice in np.ndindex(one.tests_passed.shape):
            for tests in (0, 1):
                expected = []
                for step in range(len(choice)):
                    ends = itertools.product(*(range(len(weight)) for weight in weights[step + 1 :]))
                    expected.append(
                        sum(
                            float(np.prod([w[i] for w, i in zip(weights[step + 1 :], end, strict=True)]))
                            * bool(one.tests_passed[choice[: step + 1] + end] >= (tests or 20))
                            for end in ends
                        )
                    )
                np.testing.assert_allclose(one.chances(choice, weights, tests), expected, atol=1e-12)
                if not tests:
                    np.testing.assert_array_equal(one.recoverable(choice), np.array(expected) > 0)


def test_completions_that_define_a_function_again(made):
    """Compares with an enumeration of the function that is written again, its variant, and what follows."""
    one = made[1][0]
    weights, passed = mistake_weights(one, SETTINGS), one.passed()
    for choice in np.ndindex(one.tests_passed.shape):
        found = one.redefined(choice, weights)
        for step in range(len(choice)):
            total = 0.0
            for again in range(step + 1):
                options = [range(len(w)) if i == again or i > step else [choice[i]] for i, w in enumerate(weights)]
                for end in itertools.product(*options):
                    drawn = [weights[i][v] for i, v in enumerate(end) if i == again or i > step]
                    total += float(np.prod(drawn)) * bool(passed[end]) / (step + 1)
            assert found[step] == pytest.approx(total, abs=1e-12)


def test_a_second_run_judges_nothing_and_writes_the_same(made, tasks):
    folder, _, _ = made
    sizes = {path.name: path.stat().st_size for path in (folder / "work").iterdir()}
    first = [path.read_bytes() for path in codeio_cli.run(SETTINGS, folder, tasks=list(tasks.values()))]
    assert {path.name: path.stat().st_size for path in (folder / "work").iterdir()} == sizes
    written = codeio_cli.run(SETTINGS, folder, tasks=list(tasks.values()))
    assert [path.read_bytes() for path in written] == first
    with written[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["regime"], row["labeling"]) for row in rows] == [
        (name, labeling) for name in SETTINGS.regimes for labeling in (*SETTINGS.labelings, "true_value")
    ]
    for row in rows:
        assert float(row["label_brier.low"]) <= float(row["label_brier.value"]) <= float(row["label_brier.high"])
        if row["labeling"] == "raw":
            assert float(row["label_auroc.minus_raw_low"]) == float(row["label_auroc.minus_raw_high"]) == 0.0
        if row["labeling"] == "true_value":
            assert float(row["label_brier_value.value"]) == 0.0
    assert written[0].read_text().startswith("# Labelings on CodeI/O variants\n\n4 problems with ")


def test_a_regime_changes_the_labels_and_not_the_truth(made):
    problems = made[1]
    many = dataclasses.replace(SETTINGS, labelings=("raw",))
    exact = dataclasses.replace(regime("k1"), rollouts=4000)
    plain, weak = (
        draw_steps(problems, many, dataclasses.replace(exact, judge_tests=tests, completer_scale=scale))
        for tests, scale in ((0, 1.0), (1, 3.0))
    )
    np.testing.assert_array_equal(plain.recoverable, weak.recoverable)
    np.testing.assert_array_equal(plain.value, plain.chance)
    assert np.abs(plain.labels["raw"] - plain.value).max() < 0.04  # 4000 rollouts: five standard deviations
    assert np.abs(weak.labels["raw"] - weak.chance).max() < 0.04
    assert weak.chance[weak.recoverable].mean() < plain.chance[plain.recoverable].mean() - 0.1
    assert plain.chance[~plain.recoverable].max() == 0.0


def test_replicates_are_the_measures_of_repeated_problems():
    rng = np.random.default_rng(3)
    problem, recoverable = rng.integers(0, 6, 80), rng.random(80) < 0.6
    labels, value = rng.integers(0, 5, 80) / 4, rng.random(80)
    steps = Steps(problem, recoverable, value, {"raw": labels}, value, np.ones(1))
    replicates = _replicates(steps, "raw", 5)
    for number, counts in enumerate(np.concatenate(list(resampled_counts(6, 5, 0)))):
        rows = np.repeat(np.arange(80), counts[problem])
        for name, figure in label_measures(labels[rows], recoverable[rows], value[rows]).items():
            assert replicates[name][number] == pytest.approx(figure, abs=1e-12)


def test_files_of_step_labels_are_read_by_the_trainer(made, tasks):
    folder = made[0]
    settings = dataclasses.replace(SETTINGS, clean_problems=1)
    paths = codeio_files.run(settings, folder, tasks=list(tasks.values()))
    read = {path.stem: list(read_steps(str(path), StepDataConfig(strict=True))) for path in paths[:-1]}
    raw, clean, test = read["train"], read["train_clean"], read["test"]
    assert len(raw) == len(clean) > 10
    assert {one.rollouts[:-1] for one in raw} == {(4,) * (len(one.steps) - 1) for one in raw}
    assert not {one.prompt for one in raw} & {one.prompt for one in test}
    for one, true in zip(raw, clean, strict=True):
        assert one.steps == true.steps
        assert one.labels[-1] == true.labels[-1] == one.outcome
        assert set(true.labels) <= {0.0, 1.0}
    assert any(0 < label < 1 for one in raw for label in one.labels)

    some = codeio_files.run(settings, folder / "seen", operators="seen", tasks=list(tasks.values()))
    kept = [json.loads(line) for line in some[0].read_text().splitlines()]
    assert 0 < len(kept) < len(raw)
    assert all(codeio_files.seen(name) for row in kept for name in row["operators"] if name)


def test_scorers_are_measured_by_length_and_operator(made, tasks):
    folder = made[0]
    settings = dataclasses.replace(SETTINGS, clean_problems=1)
    test, programs = codeio_files.run(settings, folder, tasks=list(tasks.values()))[-2:]
    rows = codeio_measure.read_test(test)
    assert sum(row["draws"] for row in rows) == settings.programs * len(settings.seeds)  # all for one held-out problem
    exact = [np.array(row["labels"], float) for row in rows]
    (everything, *groups) = codeio_measure.measure("exact", rows, [exact], samples=50)
    assert everything["step_auroc"] == 1.0
    inverse = [-one for one in exact]
    (both, *_) = codeio_measure.measure("exact and its inverse", rows, [exact, inverse], samples=50)
    assert both["step_auroc"] == 0.5  # the mean of both results, not the result of their mean scores
    assert everything["group"] == "all"
    assert {row["group"] for row in groups} >= {"operators seen", "operators unseen"}
    logprobs = folder / "logprobs.jsonl"
    said = [json.loads(line) for line in programs.read_text().splitlines()]
    with logprobs.open("w") as file:
        for row in said:
            tokens = list(range(len(row["code"])))  # one token per character
            file.write(json.dumps({"program_hash": row["program_hash"], "token_logprobs": [-0.5] * len(tokens),
                                   "text_offset": tokens}) + "\n")  # fmt: skip
    markdown, csv_file, compared = codeio_measure.run(settings, folder, logprobs=str(logprobs))
    assert not compared.read_text().strip()  # the scorers include no reward model
    figures = {(row["scorer"], row["group"]): row for row in csv.DictReader(csv_file.open())}
    assert float(figures["mean log-probability", "all"]["step_auroc"]) == 0.5
    places = np.concatenate([-np.arange(len(one)) for one in exact])
    assert float(figures["position", "all"]["step_auroc"]) == auroc(places, np.concatenate(exact) > 0.5)
    assert "| all | length |" in markdown.read_text()
    with pytest.raises(DataError, match="--prm 'x': NAME=FOLDER expected"):
        codeio_measure.run(settings, folder, prm=["x"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regimes": ("family_bias",)}, "primitives"),
        ({"labelings": ("raw", "label_table")}, "label_table"),
        ({"labelings": ("em",)}, "raw"),
        ({"highest_rate": 0.9}, "highest_rate"),
        ({"clean_problems": 250}, "clean_problems"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(DataError, match=message):
        CodeioSettings(**change)
