"""Functions of the user's own in settings: found, called, blamed by file and line, and part of what a stage is."""

import dataclasses

import pytest

from dreamprm_jax import user_code as own_code
from dreamprm_jax.config import Config
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages import runner as pipeline
from dreamprm_jax.stages.runner import fingerprint


def test_what_names_a_function():
    assert [own_code.is_own(name) for name in ("a.py:f", "/x/a b.py:make_it")] == [True, True]
    assert not any(own_code.is_own(name) for name in ("adamw", "a.py", "a.txt:f", "a.py:", "a.py:f()", "http://h:80"))


def test_call_and_its_errors(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n\n"
        "@dataclasses.dataclass\nclass Sum:\n    total: int\n    kind: ClassVar[str] = 'sum'\n\n"
        "def add(a, b):\n    return Sum(a + b)\n"
    )
    assert own_code.call(f"{file}:add", "config.x", 2, 3).total == 5
    assert not list(tmp_path.rglob("*.pyc"))
    for setting, arguments, message in (
        (f"{file}:sub", (), f"config.x: {file} has no function 'sub'"),
        (f"{tmp_path}/none.py:add", (), "config.x: .*none.py: no such file"),
        (f"{file}:add", ("a", 1), f"config.x: {file}, line 11: TypeError: can only concatenate"),
        (f"{file}:add", (1,), "config.x: .*: TypeError: .*missing 1 required positional argument"),
    ):
        with pytest.raises(DataError, match=message):
            own_code.call(setting, "config.x", *arguments)


def test_a_file_counts_with_its_content_not_its_place(tmp_path):
    def prints(name: str) -> tuple[str, str]:
        config = Config()
        config = dataclasses.replace(
            config,
            generate=dataclasses.replace(config.generate, candidates=str(tmp_path / f"{name}.jsonl")),
            train=dataclasses.replace(config.train, optimizer=f"{tmp_path / name}.py:make"),
        )
        return fingerprint(config, "generate"), fingerprint(config, "train")

    for name, text in (("a", "1\n"), ("b", "1\n"), ("c", "22\n")):
        for suffix in ("jsonl", "py"):
            (tmp_path / f"{name}.{suffix}").write_text(text)
    assert prints("a") == prints("b")
    assert not set(prints("a")) & set(prints("c"))
    (tmp_path / "b.jsonl").write_text("333\n")
    assert prints("a")[0] != prints("b")[0]
    (tmp_path / "b.py").unlink()
    with pytest.raises(DataError, match=r"b\.py:make: .* cannot be read"):
        prints("b")


def test_fields_that_came_later_leave_earlier_workdirs_good(monkeypatch):
    """At their defaults they are no part of a fingerprint, as before they were fields."""
    before = fingerprint(Config(), "train")
    config = Config(train=dataclasses.replace(Config().train, optimizer="other"))
    assert fingerprint(config, "train") != before
    monkeypatch.setattr(pipeline, "_LATER", {"candidates": "", "optimizer": "other"})
    assert fingerprint(config, "generate") == fingerprint(Config(), "generate")
    assert fingerprint(config, "train") == before
