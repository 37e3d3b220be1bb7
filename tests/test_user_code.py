"""User functions in settings: lookup, calls, errors with file and line, and their part in fingerprints."""

import dataclasses

import pytest

from dreamprm_jax.config import Config, load_config
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.schema import DataError
from dreamprm_jax.user_code import call_user_function, is_user_function


def test_is_user_function():
    assert [is_user_function(name) for name in ("a.py:f", "/x/a b.py:make_it")] == [True, True]
    assert not any(is_user_function(name) for name in ("adamw", "a.py", "a.txt:f", "a.py:", "a.py:f()", "http://h:80"))


def test_call_and_its_errors(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n\n"
        "@dataclasses.dataclass\nclass Sum:\n    total: int\n    kind: ClassVar[str] = 'sum'\n\n"
        "def add(a, b):\n    return Sum(a + b)\n"
    )
    assert call_user_function(f"{file}:add", "config.x", 2, 3).total == 5
    assert not list(tmp_path.rglob("*.pyc"))
    for setting, arguments, message in (
        (f"{file}:sub", (), f"config.x: {file} has no function 'sub'"),
        (f"{tmp_path}/none.py:add", (), "config.x: .*none.py: no such file"),
        (f"{file}:add", ("a", 1), f"config.x: {file}, line 11: TypeError: can only concatenate"),
        (f"{file}:add", (1,), "config.x: .*: TypeError: .*missing 1 required positional argument"),
    ):
        with pytest.raises(DataError, match=message):
            call_user_function(setting, "config.x", *arguments)


def test_fingerprints_depend_on_a_file_s_content_not_its_path(tmp_path):
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


def test_modules_in_the_same_folder_are_imported_and_hashed(tmp_path):
    """Two folders may have modules of the same name."""
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "common.py").write_text(f"STEPS = {number}\n")
        (tmp_path / folder / "config.py").write_text(
            "from common import STEPS\nfrom dreamprm_jax.config import defaults\n\n\ndef get_config():\n"
            "    config = defaults()\n    config.train.steps = STEPS\n    return config\n\n\n"
            "def make(settings):\n    import common\n    return common.STEPS\n"
        )
    for folder, number in (("a", 1), ("b", 2), ("a", 1)):
        file = tmp_path / folder / "config.py"
        assert load_config(str(file), []).train.steps == number
        assert call_user_function(f"{file}:make", "config.x", None) == number
    assert not list(tmp_path.rglob("*.pyc"))
    config = Config(train=dataclasses.replace(Config().train, optimizer=f"{tmp_path}/a/config.py:make"))
    before = fingerprint(config, "train")
    (tmp_path / "a" / "common.py").write_text("STEPS = 3\n")
    assert fingerprint(config, "train") != before


def test_fingerprints_ignore_settings_at_their_defaults(monkeypatch):
    """Fingerprints omit default values, so a field that is added later leaves earlier workdirs valid."""
    seen = []
    monkeypatch.setattr("dreamprm_jax.runs.fingerprint.canonical_json", lambda value: seen.append(value) or "")
    fingerprint(Config(), "report")
    fingerprint(Config(seed=3, name="other"), "report")
    assert seen == [{}, {"seed": 3}]
