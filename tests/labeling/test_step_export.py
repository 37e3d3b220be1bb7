"""Exports a run's labels in the formats of other tools, and reads them back."""

import json
import math

import datasets
import numpy as np
import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.config import StepDataConfig
from dreamprm_jax.labeling.step_files import LabeledSteps, read_steps
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, Outcome, Problem, Program, StepLabel, Verdict
from dreamprm_jax.storage import write_records

CODE = "def f():\n    return 1\n\n\ndef g():\n    return 2\n\n\ndef h():\n    return 3\n"
ENDS = [CODE.index("def g"), CODE.index("def h"), len(CODE)]


def step(program, index, passes, rollouts):
    start = ENDS[index - 1] if index else 0
    counts = (passes, rollouts, 0, 0, passes + 1.0, rollouts - passes + 1.0)
    return StepLabel("p", program.program_hash, index, start, ENDS[index], *counts, "", "", "", "", "")


@pytest.fixture
def run(tmp_path):
    paths = Paths(tmp_path / "run")
    problem = Problem("p", "T", "Add.", "x", "", "2024-01-01", "easy")
    programs = [Program.make("p", CODE, 0, "", {}), Program.make("p", CODE.replace("3", "4"), 1, "", {})]
    verdicts = [Verdict.AC, Verdict.SANDBOX_ERROR]
    write_records(paths.problems("train"), Problem, [problem])
    write_records(paths.programs("train"), Program, programs)
    write_records(
        paths.outcomes("train"),
        Outcome,
        [Outcome("p", one.program_hash, v, 1, 1, "", 0.0, "", "") for one, v in zip(programs, verdicts, strict=True)],
    )
    labels = [step(programs[0], 0, 3, 4), step(programs[0], 1, 1, 4), step(programs[0], 2, 1, 1)]
    labels += [step(programs[1], 0, 4, 4), step(programs[1], 1, 0, 0), step(programs[1], 2, 0, 0)]
    write_records(paths.step_labels(), StepLabel, labels)
    write_records(
        paths.corrected_labels("em"),
        CorrectedLabel,
        [CorrectedLabel("p", programs[0].program_hash, n, 0.5, 0.9 - 0.8 * n, "em") for n in (0, 1)],
    )
    return paths.root


def exported(run, tmp_path, name, *options):
    assert main(["labels", "export", f"--run={run}", f"--output={tmp_path / name}", *options]) == 0
    return [one for one in read_steps(str(tmp_path / name), StepDataConfig()) if isinstance(one, LabeledSteps)]


def labels(one):
    return [None if math.isnan(label) else round(label, 6) for label in one.labels]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x"])
def test_trl_form_comes_back(name, run, tmp_path):
    first, second = exported(run, tmp_path, name)
    assert first.prompt == "Platform: x\nTitle: T\n\nAdd."
    assert "\n\n\n".join(first.steps) + "\n" == CODE
    assert labels(first) == [1.0, 0.0, 1.0]
    assert first.outcome == 1.0
    assert labels(second) == [1.0, None, None]
    assert np.isnan(second.outcome)
    soft = exported(run, tmp_path, f"soft-{name}", "--soft")
    assert labels(soft[0]) == [0.75, 0.25, 1.0]
    assert labels(soft[1]) == [1.0, None, None]


def test_a_folder_is_a_dataset_with_trls_columns(run, tmp_path):
    exported(run, tmp_path, "x", "--threshold=0.8")
    data = datasets.load_from_disk(tmp_path / "x")
    assert {"prompt", "completions", "labels"} <= set(data.column_names)
    assert data[0]["labels"] == [0, 0, 1]
    assert data[1]["labels"] == [1, -100, -100]
    assert main(["labels", "export", f"--run={run}", f"--output={tmp_path / 'x'}"]) == 2


def test_corrected_labels(run, tmp_path, capsys):
    [first] = [one for one in exported(run, tmp_path, "x.jsonl", "--labels=em", "--soft") if not np.isnan(one.outcome)]
    assert labels(first) == [0.9, 0.1, 1.0]
    assert main(["labels", "export", f"--run={run}", "--labels=value", f"--output={tmp_path / 'y.jsonl'}"]) == 2
    assert "choose among raw, em" in capsys.readouterr().err


def test_prm800k_form_comes_back(run, tmp_path):
    first, second = exported(run, tmp_path, "x.jsonl", "--format=prm800k")
    assert "\n\n\n".join(first.steps) + "\n" == CODE
    assert labels(first) == [1.0, 0.0, 1.0]
    assert first.outcome == 1.0
    assert labels(second) == [1.0, None, None]


def test_math_shepherds_form_comes_back_and_says_what_it_cannot(run, tmp_path, capsys):
    [first] = exported(run, tmp_path, "x.jsonl", "--format=math_shepherd")
    assert labels(first) == [1.0, 0.0, 1.0]
    assert first.steps[0] == "Step 1: def f():\n    return 1"
    assert "1 left out: a step has no label" in capsys.readouterr().out
    row = json.loads((tmp_path / "x.jsonl").read_text())
    assert row["label"].count("+") == 2


def test_what_cannot_be_exported_is_told(run, tmp_path, capsys):
    assert main(["labels", "export", f"--run={run}", "--format=prm800k", "--soft", f"--output={tmp_path / 'x'}"]) == 2
    assert "has no soft labels" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["labels", "export", f"--run={tmp_path / 'empty'}", f"--output={tmp_path / 'x'}"]) == 2
    assert "has no step labels" in capsys.readouterr().err
