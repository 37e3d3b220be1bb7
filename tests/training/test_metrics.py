"""metrics.jsonl across a restart."""

import json

from dreamprm_jax.training.metrics import MetricsWriter


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_resumed_file_forgets_what_is_done_again(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        for step in range(5):
            writer.write(step, {"loss": 1.0 / (step + 1)})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 5, "lo')  # a killed process leaves a torn line
    with MetricsWriter(tmp_path, 3) as writer:
        assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2]
        writer.write(3, {"loss": 7.0, "norm": 2.0})
        assert lines(tmp_path)[-1] == {"step": 3, "loss": 7.0, "norm": 2.0}  # on disk before it is closed
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3]
    assert lines(tmp_path)[0] == {"step": 0, "loss": 1.0}
    assert any((tmp_path / "tensorboard").iterdir())
    with MetricsWriter(tmp_path, 0):
        assert lines(tmp_path) == []
