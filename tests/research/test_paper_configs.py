"""Runs the three configurations of the paper through all six stages, at a small size."""

import json
from pathlib import Path

import pytest

from dreamprm_jax.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "problems.source": "procedural",
    "problems.train_count": 12,
    "problems.meta_count": 6,
    "problems.test_count": 6,
    "policy.kind": "simulated",
    "generate.test_programs": 2,
    "label.rollouts": 2,
    "model.weights": "",
    "model.vocab_size": 2000,
    "model.hidden_size": 16,
    "model.intermediate_size": 32,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.num_kv_heads": 1,
    "model.max_length": 512,
    "train.row_tokens": 512,
    "train.warmup_steps": 2,
    "train.batch_size": 8,
    "train.meta.batch_size": 8,
    "train.steps": 8,  # one outer update, also with eight inner updates per outer update
    "train.log_every": 1,
    "train.arms": "('corrected',)",
    "evaluate.bootstrap_samples": 100,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper/label_table", "paper/weight_table", "qwen2_5_coder_3b"])
def test_all_stages_run(tmp_path, name):
    overrides = [f"--config.{field}={value}" for field, value in SMALL.items()]
    assert main(["run", f"--config={ROOT / 'configs' / f'{name}.py'}", f"--workdir={tmp_path}", *overrides]) == 0
    lines = (tmp_path / "train" / "corrected" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["step"] == 9
    if name == "paper/weight_table":  # its weights are not labels
        assert any(row.get("hypergradient_norm", 0) > 0 for row in rows)
    else:
        assert rows[-1]["label_drift"] > 0
    assert "PRM, corrected labels" in (tmp_path / "evaluate" / "table.txt").read_text()
