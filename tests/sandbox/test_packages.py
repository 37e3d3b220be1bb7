"""The setting for packages that programs may import."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Literal

import pytest

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES
from dreamprm_jax.schema import DataError, TestCase, Verdict

CONFIG = dataclasses.replace(SandboxConfig(), workers=1)


def verdicts(judge: Judge, *imports: str) -> list[Verdict]:
    tasks = [JudgeTask(name, f"import {name}\nprint({name}.__name__)", (TestCase("", name),)) for name in imports]
    return [result.verdict for result in judge.evaluate(tasks)]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "installed"
    (folder / "ownpackage").mkdir(parents=True)
    (folder / "ownpackage" / "__init__.py").write_text("from . import part")
    (folder / "ownpackage" / "part.py").write_text("")
    (folder / "ownfile.py").write_text("")
    (folder / "secretfile.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("mode", ["faithful", "lcb"])
def test_named_packages_and_no_others_can_be_imported(own: Path, mode: Literal["faithful", "lcb"]) -> None:
    config = dataclasses.replace(CONFIG, mode=mode, packages=("ownpackage", "ownfile"))
    with Judge.from_config(config) as judge:
        assert verdicts(judge, "ownpackage", "ownfile", "math") == [Verdict.AC] * 3
        assert verdicts(judge, "numpy", "secretfile") == [Verdict.RE] * 2
        # A module of one file does not give access to its folder.
        read = JudgeTask("read", f"open({str(own / 'secretfile.py')!r})", (TestCase("", ""),))
        (result,) = judge.evaluate([read])
        assert result.verdict is Verdict.RE
    with Judge.from_config(CONFIG) as judge:
        assert verdicts(judge, "numpy", "ownpackage") == [Verdict.AC, Verdict.RE]


def test_packages_count_in_the_digest(own: Path) -> None:
    task = JudgeTask("key", "print(1)", (TestCase("", "1"),))
    digests = set()
    for packages in (OFFERED_PACKAGES, (), ("numpy",), ("ownfile",)):
        with Judge("faithful", workers=1, packages=packages) as judge:
            digests.add(judge.digest(task))
    installed = importlib.util.find_spec("sortedcontainers") is not None  # otherwise settings 1 and 3 are equal
    assert len(digests) == 3 + installed


@pytest.mark.parametrize("name", ["no_such_package", "numpy.linalg", "../numpy", ""])
def test_a_package_that_is_not_installed_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match=r"sandbox\.packages"):
        Judge("faithful", workers=1, packages=(name,))


def test_the_setting_s_default_is_what_is_offered() -> None:
    assert CONFIG.packages == OFFERED_PACKAGES
