"""A whole small study from the command line: if it is killed and run again, it gives the same result."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.study.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = """
from research.study.presets import structural

def get_config():
    config = structural()
    config.name = "tiny"
    config.regimes = ("k1",)
    config.seeds = (7,)
    config.arms = ("raw", "undetected_fault_online", "label_table:unroll=2,phase=retrain")
    config.sizes.train, config.sizes.meta, config.sizes.test, config.sizes.test_programs = 24, 8, 6, 3
    config.model.hidden_size, config.model.intermediate_size, config.model.num_layers = 16, 32, 1
    config.model.num_heads = config.model.num_kv_heads = 2
    config.recipe.steps = 10
    config.clean_problems = 4
    config.workers = 1
    return config
"""


def arguments(folder: Path, *options: str) -> list[str]:
    (folder / "tiny.py").write_text(CONFIG)
    return [f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'run'}", *options]


def results(folder: Path) -> dict[str, dict]:
    rows = [json.loads(path.read_text()) for path in (folder / "run" / "results").glob("*/*/*.json")]
    return {row["arm"]: {name: value for name, value in row.items() if name != "seconds"} for row in rows}


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_same(tmp_path, monkeypatch, capsys):
    """Each unit runs in a separate process. Only the command that is killed must be a separate process here."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "research.study", *arguments(killed)], stderr=subprocess.DEVNULL, cwd=REPOSITORY
    )
    deadline = time.monotonic() + 900
    while not list((killed / "run").glob("results/*/*/raw.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()  # its unit's process ends by itself
    process.wait()
    assert 1 <= len(results(killed)) < 3
    assert main(arguments(killed)) == 0
    assert "step_auroc.svg" in capsys.readouterr().out
    assert main(arguments(whole)) == 0
    assert results(killed) == results(whole)
    assert set(results(whole)) == {"raw", "undetected_fault_online", "label_table:unroll=2,phase=retrain"}
    assert 0.0 <= results(whole)["label_table:unroll=2,phase=retrain"]["sign_agreement_recoverable"] <= 1.0
    table = (killed / "run" / "study.md").read_text()
    assert "### k1: 1 seed(s); of the candidates" in table
    assert "| `undetected_fault_online` | 1 |" in table

    # Other settings are refused for these results, but another arm can be added.
    assert main(arguments(killed, "--config.recipe.steps=21")) == 2
    assert "holds results of other settings (recipe)" in capsys.readouterr().err
    assert main(arguments(killed, "--config.arms=('raw','em')", "--report")) == 0
