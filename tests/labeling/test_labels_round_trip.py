"""Exports the labels of a real run, trains on them and exports them again, with the commands for users."""

import json

import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.config import StepDataConfig
from dreamprm_jax.labeling.step_files import read_steps
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import StepLabel
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_json, read_records

MODEL = {
    "model.hidden_size": 16, "model.intermediate_size": 24, "model.num_layers": 1, "model.num_heads": 2,
    "model.num_kv_heads": 1, "model.vocab_size": 300, "model.max_length": 2048, "train.row_tokens": 2048,
    "train.batch_size": 2, "train.meta.batch_size": 2, "train.warmup_steps": 2, "train.steps": 2,
    "train.arms": "('raw',)",
}  # fmt: skip


@pytest.mark.slow
def test_exported_labels_train_a_model_and_come_back(tmp_path, tiny_config, capsys):
    run, mine, labels = tmp_path / "run", tmp_path / "mine", tmp_path / "labels.jsonl"
    for stage in ("generate", "label"):
        run_stage(tiny_config, run, stage)
    assert main(["labels", "export", f"--run={run}", "--soft", f"--output={labels}"]) == 0
    settings = [f"--config.{key}={value}" for key, value in MODEL.items()]
    assert main(["train", f"--steps={labels}", f"--workdir={mine}", *settings]) == 0

    rows = list(read_steps(str(labels), StepDataConfig()))
    counts = read_json(mine / "train" / "DONE.json")["counts"]
    steps = read_records(Paths(run).step_labels(), StepLabel)
    assert counts["train solutions"] == len(rows) == len({one.program_hash for one in steps})
    assert counts["labeled steps"] == len(steps) == sum(len(one.known) for one in rows)
    assert sorted(label for one in rows for label in one.labels) == sorted(one.mean for one in steps)
    assert "train rows skipped" not in counts

    capsys.readouterr()
    assert main(["status", f"--workdir={mine}"]) == 0
    shown = capsys.readouterr().out
    assert "trained on given step labels" in shown
    assert "train      done" in shown
    assert "pending" not in shown

    assert main(["labels", "export", f"--run={mine}", "--soft", f"--output={tmp_path / 'again.jsonl'}"]) == 0
    assert repr(list(read_steps(str(tmp_path / "again.jsonl"), StepDataConfig()))) == repr(rows)
    output = tmp_path / "scores.jsonl"
    assert main(["score", f"--prm={mine / 'raw'}", f"--candidates={labels}", f"--output={output}"]) == 0
    scored = [len(row["step_scores"]) for row in map(json.loads, output.read_text().splitlines())]
    assert scored == [len(one.steps) for one in rows]
