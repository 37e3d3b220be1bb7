"""metrics.jsonl across a restart, and the other destinations of metrics."""

import json
import os
import subprocess
import sys

import pytest

from dreamprm_jax.schema import DataError
from dreamprm_jax.training.metrics import MetricsWriter


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_resumed_file_forgets_what_is_done_again(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        for step in range(5):
            writer.write(step, {"loss": 1.0 / (step + 1)})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 5, "lo')  # a killed process leaves an incomplete line
    with MetricsWriter(tmp_path, 3) as writer:
        assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2]
        writer.write(3, {"loss": 7.0, "norm": 2.0})
        assert lines(tmp_path)[-1] == {"step": 3, "loss": 7.0, "norm": 2.0}  # on disk before the file is closed
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3]
    assert lines(tmp_path)[0] == {"step": 0, "loss": 1.0}
    assert any((tmp_path / "tensorboard").iterdir())
    with MetricsWriter(tmp_path, 0):
        assert lines(tmp_path) == []


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    with MetricsWriter(tmp_path / "arm", 0, writes=False, wandb_project="x") as writer:
        writer.write(0, {"loss": 1.0})
    assert not (tmp_path / "arm").exists()


def test_weights_and_biases_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(
        DataError, match=r"wandb_project='p': wandb is not installed; pip install 'dreamprm-jax\[wandb\]'"
    ):
        MetricsWriter(tmp_path, 0, wandb_project="p")
    assert not (tmp_path / "metrics.jsonl").exists()


OFFLINE = """
import sys
from pathlib import Path
from dreamprm_jax.training.metrics import MetricsWriter

with MetricsWriter(Path(sys.argv[1]), 0, wandb_project="project") as writer:
    for step in range(3):
        writer.write(step, {"loss": 1.0 / (step + 1)})
"""


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    """Runs in a separate process, because the library leaves a server process running."""
    pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    environment = {**os.environ, "WANDB_MODE": "offline"}
    run = subprocess.run([sys.executable, "-c", OFFLINE, tmp_path], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2]
    (log,) = (tmp_path / "wandb").rglob("*.wandb")
    assert b"loss" in log.read_bytes()
