"""Runs the launch scripts as a user would, with fake cluster tools if a test requests them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tools(tmp_path: Path) -> Callable[[str, str], Path]:
    """Installs a bash script in place of a command, in a folder that comes first in PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def put(name: str, script: str) -> Path:
        path = folder / name
        path.write_text("#!/usr/bin/env bash\n" + script, encoding="utf-8")
        path.chmod(0o755)
        return path

    return put


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a script that runs the package: this test's virtual environment and the tools above."""
    path = f"{tmp_path / 'tools'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DREAMPRM_VENV": sys.prefix, "DREAMPRM_INSTALL": "no", "TMPDIR": str(tmp_path)}


@pytest.fixture
def launch(repository: Path, environment: dict[str, str]) -> Launch:
    """Runs a script of launch/ to its end. Unless ``checked``, it finds no package, so settings are not checked."""

    def run(script: str, *arguments: str, checked: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        variables = environment | variables
        if not checked:
            variables |= {
                "DREAMPRM_VENV": "/nonexistent",
                "PYTHONPATH": "",
                "PATH": _without_package(variables["PATH"]),
            }
        return subprocess.run(
            ["bash", str(repository / "launch" / script), *arguments],
            cwd=repository, env=variables, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    return run


def _without_package(path: str) -> str:
    return ":".join(folder for folder in path.split(":") if folder != f"{sys.prefix}/bin")
