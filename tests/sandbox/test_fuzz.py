"""Runs each target of the coverage-guided fuzzing in ``fuzz_atheris.py`` for a few seconds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("what", ["outputs", "values", "frames"])
def test_fuzzing_finds_nothing(what: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install atheris (a wheel, or clang)")
    script = Path(__file__).with_name("fuzz_atheris.py")
    command = [sys.executable, str(script), what, "--seconds", "20", "--corpus", str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) > 10_000
