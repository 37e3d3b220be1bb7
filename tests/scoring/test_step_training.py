"""`dreamprm train --steps`: a model trained on the user's labels, its metrics, and all later uses of it."""

import json
import random
from collections import Counter

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.config import load_config
from dreamprm_jax.labeling.correction.methods import fixed_labels, read_labels
from dreamprm_jax.labeling.step_files import SteppedProgram
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.trained import trained_arm
from dreamprm_jax.schema import Problem
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.scoring.step_training import load_step_data
from dreamprm_jax.storage import read_json
from dreamprm_jax.training.arms import arm_plans
from dreamprm_jax.training.examples import NO_LABEL

SMALL = {
    "model.hidden_size": 16, "model.intermediate_size": 24, "model.num_layers": 1, "model.num_heads": 2,
    "model.num_kv_heads": 1, "model.vocab_size": 280, "model.max_length": 96, "train.row_tokens": 96,
    "train.batch_size": 4, "train.meta.batch_size": 2, "train.warmup_steps": 60, "train.steps": 2,
    "train.learning_rate": 0.01, "score.row_tokens": 128, "score.batch_tokens": 512,
}  # fmt: skip


def solutions(seed, count, outcome=True):
    """Steps whose text tells whether they are right; a tenth of the labels are wrong."""
    rng = random.Random(seed)
    for number in range(count):
        steps, labels, right = [], [], True
        for place in range(rng.randint(1, 3)):
            right = right and rng.random() < 0.7
            steps.append(f"{place}: {'ok' if right else 'bad'}")
            labels.append(right if rng.random() < 0.9 or seed else not right)
        row = {"prompt": f"Task {seed}-{number}", "completions": steps, "labels": labels}
        yield row | ({"outcome": right} if outcome else {})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def command(folder, *options, **settings):
    values = [f"--config.{name}={value}" for name, value in (SMALL | settings).items()]
    return main(["train", f"--workdir={folder}", *map(str, options), *values])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    return write(folder / "steps.jsonl", [*solutions(0, 80), {"prompt": "x"}]), write(
        folder / "held_out.jsonl", solutions(1, 30, outcome=False)
    )


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mine"
    assert command(folder, f"--steps={files[0]}", f"--eval-steps={files[1]}") == 0
    return folder


@pytest.mark.slow
def test_both_arms_learn_the_labels(run):
    figures = {one["name"]: one for one in read_json(Paths(run).step_evaluation())}
    assert set(figures) == {"raw", "label_table", "position"}
    assert figures["raw"]["auroc"]["estimate"] > 0.9 > figures["position"]["auroc"]["estimate"] + 0.1
    assert figures["raw"]["auroc"]["low"] <= figures["raw"]["auroc"]["estimate"] <= figures["raw"]["auroc"]["high"]
    assert figures["label_table"]["auroc"]["estimate"] > 0.9
    assert figures["raw"]["solutions"] == 30
    counts = read_json(run / "train" / "DONE.json")["counts"]
    assert counts["train rows skipped"] == 1
    assert counts["train solutions"] + counts["meta solutions"] == 80
    [skip] = [json.loads(line) for line in Paths(run).skipped_steps().read_text().splitlines()]
    assert skip["row"] == "row 81"


@pytest.mark.slow
def test_the_learned_labels_are_stored_by_step(run):
    labels = read_labels(Paths(run).corrected_labels("label_table"))
    assert len(labels) == read_json(run / "train" / "DONE.json")["counts"]["labeled steps"]
    assert any(step == 0 and value not in (0.0, 1.0) for (_, _, step), value in labels.items())


@pytest.mark.slow
def test_again_it_reuses_what_is_done(run, files, capsys):
    assert command(run, f"--steps={files[0]}", f"--eval-steps={files[1]}") == 0
    assert "already done" in capsys.readouterr().out


@pytest.mark.slow
def test_score_reads_the_files_own_rows_and_programs(run, files, tmp_path):
    rows = [
        {"prompt": "Task", "completions": ["0: ok", "1: bad"]},
        {"statement": "Task", "code": "def f():\n    pass\n\n\ndef g():\n    pass\n"},
        {"prompt": "Task", "completions": ["0: ok", ""]},
    ]
    candidates = write(tmp_path / "c.jsonl", rows)
    assert (
        main(["score", f"--prm={run / 'raw'}", f"--candidates={candidates}", f"--output={tmp_path / 's.parquet'}"]) == 0
    )
    first, second = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert first["step_scores"][0] > first["step_scores"][1]
    assert len(first["step_scores"]) == len(second["step_scores"]) == 2
    [skip] = (tmp_path / "s.skipped.jsonl").read_text().splitlines()
    assert "field completions" in skip


@pytest.mark.slow
def test_an_exported_folder_scores_as_the_arm(run, tmp_path):
    assert main(["export", f"--prm={run / 'raw'}", f"--output={tmp_path / 'hf'}"]) == 0
    problem = Problem("p", "", "Task", "", "", "", "")
    tokens = []
    for path in (run / "raw", tmp_path / "hf"):
        prm = load_prm(path, PrmOptions())
        [(_, read, ends)] = prm.read(problem, [SteppedProgram.of("p", ["0: ok", "1: bad"])], Counter())
        tokens.append((read.tolist(), ends.tolist()))
        assert prm.tokenizer.decode(read.tolist()) == "Task0: ok\n1: bad\n"
    assert tokens[0] == tokens[1]


@pytest.mark.slow
def test_separator_and_resume(files, tmp_path, monkeypatch):
    """A run that is stopped after its warm-up and resumed has the same weights as an uninterrupted run."""
    import dreamprm_jax.stages.train as stage

    settings = {"train.arms": "('raw',)", "train.warmup_steps": 3, "train.evaluate_every": 0}
    options = (f"--steps={files[0]}", "--separator= | ")
    assert command(tmp_path / "whole", *options, **settings) == 0
    trained = stage.train_arm

    def stopped(setup, arm, *others):
        if arm.name == "raw":
            raise RuntimeError("killed")
        return trained(setup, arm, *others)

    monkeypatch.setattr(stage, "train_arm", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        command(tmp_path / "part", *options, **settings)
    monkeypatch.undo()
    assert command(tmp_path / "part", *options, **settings) == 0
    found = [load_prm(tmp_path / name / "raw", PrmOptions()) for name in ("whole", "part")]
    jax.tree.map(np.testing.assert_array_equal, found[0].params, found[1].params)
    assert found[0].reader.form.separator == " | "
    assert trained_arm(tmp_path / "whole" / "raw").config.train.step_data.separator == " | "


@pytest.mark.slow
def test_trusted_steps_make_the_outer_problem(tmp_path):
    noisy = write(tmp_path / "noisy.jsonl", solutions(0, 20, outcome=False))
    trusted = write(tmp_path / "trusted.jsonl", solutions(2, 8, outcome=False))
    short = {"train.warmup_steps": 2, "train.evaluate_every": 0, "train.arms": "('label_table',)"}
    assert command(tmp_path / "run", f"--steps={noisy}", f"--meta-steps={trusted}", **short) == 0
    moved = set(read_labels(Paths(tmp_path / "run").corrected_labels("label_table")).values())
    assert moved - {0.0, 1.0, 0.02, 0.98}
    metrics = (tmp_path / "run" / "train" / "label_table" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["hypergradient_norm"] > 0


def loaded(folder, path, arms):
    values = SMALL | {"train.step_data.path": path, "train.arms": arms, "train.evaluate_every": 0}
    config = load_config("", [f"--config.{name}={value}" for name, value in values.items()])
    paths = Paths(folder)
    paths.skipped_steps().parent.mkdir(parents=True)
    return load_step_data(config, paths, arm_plans(config.train), Counter()).run, config


def test_meta_solutions_have_outcomes_and_no_step_label(files, tmp_path):
    """Each row of the label table belongs to one step of one training solution."""
    run, _ = loaded(tmp_path / "run", files[0], "('label_table',)")
    used = [index for one in run.inner.examples for index in one.label_index.tolist() if index != NO_LABEL]
    assert sorted(used) == list(range(len(run.source.steps)))
    outer = [one for one in run.inner.examples if one.problem_id not in {train.problem_id for train in run.train}]
    assert outer
    assert all((one.label_index == NO_LABEL).all() and np.isfinite(one.outcome) for one in outer)


COUNTED = [
    {"prompt": "a", "completions": ["x", "y", "z"], "labels": [0.25, 0, 1], "rollouts": [4, 4, 1], "outcome": True},
    {"prompt": "b", "completions": ["x", "y", "w"], "labels": [0.5, None, 0], "rollouts": [4, 0, 1], "outcome": False},
    {"prompt": "c", "completions": ["v"], "labels": [1], "rollouts": [1], "outcome": True},
]


def test_counts_of_rollouts_give_the_labelings_of_a_run(tmp_path):
    run, config = loaded(tmp_path / "run", write(tmp_path / "s.jsonl", COUNTED), "('closure','undetected_fault')")
    assert [(one.passes, one.rollouts) for one in run.source.steps] == [(1, 4), (0, 4), (2, 4), (0, 0)]
    np.testing.assert_array_equal(fixed_labels("closure", run.source, config.train.labels)[:3], [1.0, 1.0, 1.0])
    assert np.isfinite(fixed_labels("undetected_fault", run.source, config.train.labels)).all()
    assert [one.label_index.tolist() for one in run.train] == [[0, 1, NO_LABEL], [2, 3, NO_LABEL], [NO_LABEL]]
    assert [one.outcome for one in run.train] == [1.0, 0.0, 1.0]


@pytest.mark.slow
def test_the_default_labeling_trains_on_counts(tmp_path):
    steps = write(tmp_path / "s.jsonl", COUNTED)
    settings = {"train.arms": "('orm','closure','undetected_fault_online')", "train.warmup_steps": 1}
    assert command(tmp_path / "run", f"--steps={steps}", **settings, **{"train.evaluate_every": 0}) == 0
    labels = read_labels(Paths(tmp_path / "run").corrected_labels("undetected_fault_online"))
    assert len(labels) == 4
    assert all(0 <= value <= 1 for value in labels.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollouts": [4, 4]}, "must be a list of 3 counts"),
        ({"rollouts": [4, -1, 1]}, "-1 is not a count"),
        ({"rollouts": [3, 4, 1]}, "label 0.25 is not a share of 3 rollouts"),
        ({"outcome": None}, "needs an outcome"),
    ],
)
def test_counts_that_cannot_be_are_told(change, message, tmp_path, capsys):
    steps = write(tmp_path / "s.jsonl", [COUNTED[0] | change])
    assert command(tmp_path / "run", f"--steps={steps}", "--strict", **{"train.arms": "('raw',)"}) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ((), {}, "give --config=FILE, or --steps=FILE"),
        (("--steps=none.jsonl",), {}, "none.jsonl: no such file"),
        (("--steps=plain.jsonl",), {"train.arms": "('em',)"}, "em needs counts of rollouts"),
        (("--steps=plain.jsonl",), {"train.arms": "('label_table',)"}, "needs trusted solutions"),
        (("--steps=plain.jsonl",), {"train.arms": "('orm',)"}, "trains on outcomes, and no solution has one"),
        (("--steps=plain.jsonl", "--eval-steps=plain.jsonl"), {}, "holds no solution to train on"),
        (("--steps=bad.jsonl", "--strict"), {}, "bad.jsonl, row 1"),
        (("--steps=outcomes.jsonl",), {}, "label besides the outcome, and arm raw needs some; --config.train.arms="),
    ],
)
def test_what_cannot_be_trained_on_is_told(options, settings, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "plain.jsonl", solutions(0, 5, outcome=False))
    write(tmp_path / "bad.jsonl", [{"prompt": "x"}])
    unlabeled = {"completions": ["a", "b"], "labels": [None, None], "outcome": True}
    write(tmp_path / "outcomes.jsonl", [unlabeled | {"prompt": f"p{number}"} for number in range(40)])
    assert command(tmp_path / "run", *options, **settings) == 2
    assert message in capsys.readouterr().err
