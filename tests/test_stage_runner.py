"""Stages: fingerprints, reuse of output, archived and restored output, one process at a time."""

import dataclasses
import fcntl
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dreamprm_jax.config import Config, MeshConfig, freeze, leaves
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import DONE, STARTED, StageFolder
from dreamprm_jax.runs.stage_graph import STAGES, Stage
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages import runner
from dreamprm_jax.stages.runner import record_run, run_stage

CALLS = []


def replaced(config: Config, path: str, value) -> Config:
    section, _, field = path.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{field: value})
    if "." in section:
        outer, inner = section.split(".")
        part = getattr(config, outer)
        part = dataclasses.replace(part, **{inner: dataclasses.replace(getattr(part, inner), **{field: value})})
        return dataclasses.replace(config, **{outer: part})
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})


@pytest.mark.parametrize(
    ("path", "value", "redone"),
    [
        ("seed", 1, "generate label train score evaluate report"),
        ("problems.test_count", 7, "generate label train score evaluate report"),
        ("generate.temperature", 0.9, "generate label train score evaluate report"),
        ("policy.wrong_rate_scale", 2.0, "generate label train score evaluate report"),
        ("label.rollouts", 9, "label train score evaluate report"),
        ("sandbox.cpu_seconds", 1.0, "label train score evaluate report"),
        ("train.steps", 5, "train score evaluate report"),
        ("train.meta.unroll", 2, "train score evaluate report"),
        ("model.num_layers", 1, "train score evaluate report"),
        ("score.batch_tokens", 2048, "score evaluate report"),
        ("evaluate.aggregator", "min", "evaluate report"),
        ("name", "other", ""),
        ("sandbox.workers", 5, ""),
        ("policy.concurrency", 3, ""),
        ("policy.timeout_seconds", 3.0, ""),
        ("train.log_every", 3, ""),
        ("train.checkpoint_every", 3, ""),
        ("train.evaluate_every", 3, ""),
        ("train.profile_steps", 3, ""),
        ("train.wandb_project", "x", ""),
        ("distributed.mode", "auto", ""),
        ("train.mesh", MeshConfig(fsdp=2), ""),
        ("train.accumulation", 2, "train score evaluate report"),
        ("train.master_weights", True, "train score evaluate report"),
    ],
)
def test_a_setting_redoes_its_stage_and_those_after_it(path, value, redone):
    before, after = Config(), replaced(Config(), path, value)
    assert [name for name in STAGES if fingerprint(before, name) != fingerprint(after, name)] == redone.split()


ALL_STAGES = "generate label train score evaluate report"
READ_BY = {  # every setting that names a file -> the stages that depend on its content
    "problems.exclude": ALL_STAGES,
    "problems.path": ALL_STAGES,
    "policy.chat_template": ALL_STAGES,
    "policy.path": ALL_STAGES,
    "generate.candidates": ALL_STAGES,
    "sandbox.checker": "label train score evaluate report",
    "model.weights": "train score evaluate report",
    "train.arms": "train score evaluate report",
    "train.optimizer": "train score evaluate report",
    "train.labels.method": "train score evaluate report",
    "train.labels.stored": "train score evaluate report",
    "train.labels.clean_labels": "train score evaluate report",
    "train.step_data.path": "train score evaluate report",
    "train.step_data.evaluation": "train score evaluate report",
    "train.step_data.meta": "train score evaluate report",
}


def test_every_setting_that_names_a_file_is_known_here():
    assert {name for name, _, info in leaves(Config()) if info.reads} == set(READ_BY)
    suspicious = re.compile(r"\b(path|file|folder|FILE)\b")
    reading = {name for name, value, info in leaves(Config()) if suspicious.search(info.help)}
    assert reading - set(READ_BY) == {
        "policy.kind",
        "name",
        "train.profile_steps",
        "problems.source",
        "problems.strict",
        "train.step_data.meta_share",
    }


@pytest.mark.parametrize(("path", "redone"), READ_BY.items())
def test_an_edited_file_redoes_the_stages_that_read_it(tmp_path, path, redone):
    info = {name: info for name, _, info in leaves(Config())}[path]

    def prints(file: Path) -> dict[str, str]:
        value = f"{file}:make" if info.reads == "function" else str(file)
        config = replaced(Config(), path, (value,) if path == "train.arms" else value)
        return {name: fingerprint(config, name) for name in STAGES}

    file, moved = tmp_path / "file.py", tmp_path / "moved.py"
    file.write_text("one", encoding="utf-8")
    before = prints(file)
    file.write_text("another", encoding="utf-8")
    after = prints(file)
    assert [name for name in STAGES if before[name] != after[name]] == redone.split()
    file.rename(moved)
    assert prints(moved) == after


@pytest.mark.parametrize("path", ["problems.path", "policy.path", "model.weights"])
def test_a_file_inside_a_folder_counts(tmp_path, path):
    def prints() -> dict[str, str]:
        config = replaced(Config(), path, str(tmp_path))
        return {name: fingerprint(config, name) for name in STAGES}

    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test2.jsonl").write_text("one", encoding="utf-8")
    before = prints()
    (tmp_path / "inner" / "test2.jsonl").write_text("two", encoding="utf-8")  # the same size
    after = prints()
    assert [name for name in STAGES if before[name] != after[name]] == READ_BY[path].split()
    (tmp_path / ".cache").write_text("hidden files do not count", encoding="utf-8")
    assert prints() == after


def test_only_the_problems_of_an_excluded_benchmark_count(tmp_path):
    config = replaced(Config(), "problems.exclude", str(tmp_path))
    prints = [fingerprint(config, "generate")]
    for name, text in (("problems.parquet", "a"), ("problems.parquet", "bc"), ("README.md", "card")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        prints.append(fingerprint(config, "generate"))
    assert len(set(prints[:3])) == 3
    assert prints[2] == prints[3]


def test_the_files_of_a_tokenizers_folder_count(tmp_path):
    config = replaced(Config(), "policy.chat_template", str(tmp_path))
    prints = [fingerprint(config, "label")]
    for name, text in (("chat_template.jinja", "a"), ("chat_template.jinja", "bc"), ("model.safetensors", "weights")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        prints.append(fingerprint(config, "label"))
    assert len(set(prints[:3])) == 3
    assert prints[2] == prints[3]


def test_finished_stages_stay_valid_without_their_files(tmp_path):
    """Finished stages stay valid without their input files, for example after a run was copied to another machine."""
    file, root = tmp_path / "problems.jsonl", tmp_path / "run"
    file.write_text("one", encoding="utf-8")
    config = replaced(Config(), "problems.path", str(file))
    root.mkdir()
    record_run(config, root)
    known = fingerprint(config, "train", root)
    file.unlink()
    assert fingerprint(config, "train", root) == known != fingerprint(config, "train")
    file.write_text("another", encoding="utf-8")
    assert fingerprint(config, "train", root) != known
    file.write_text("one", encoding="utf-8")
    assert fingerprint(config, "train") == known


def test_fingerprints_are_stable_and_differ_between_stages(tiny_config):
    again = freeze(json.loads(json.dumps(dataclasses.asdict(tiny_config)), object_hook=_tuples))
    prints = [fingerprint(tiny_config, name) for name in STAGES]
    assert prints == [fingerprint(again, name) for name in STAGES]
    assert len(set(prints)) == len(STAGES)


def _tuples(value: dict) -> dict:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}


def first_stage(config: Config, paths: Paths) -> dict[str, int]:
    CALLS.append(("first", config.seed))
    assert (paths.stage("first") / STARTED).exists()
    (paths.stage("first") / "out.txt").write_text(str(config.seed), encoding="utf-8")
    if config.name == "fails":
        raise DataError("failed on purpose")
    return {"rows": 3}


def second_stage(config: Config, paths: Paths) -> dict[str, int]:
    CALLS.append(("second", config.train.steps))
    (paths.stage("second") / "out.txt").write_text(str(config.train.steps), encoding="utf-8")
    return {"rows": 1, "skipped": 2}


@pytest.fixture
def stages(monkeypatch):
    """Two small stages instead of the real ones."""
    CALLS.clear()
    monkeypatch.setitem(STAGES, "first", Stage("first", ("seed",), (), "makes"))
    monkeypatch.setitem(STAGES, "second", Stage("second", ("train",), ("first",), "uses"))
    functions = {"first": first_stage, "second": second_stage}
    monkeypatch.setattr(runner, "stage_function", functions.__getitem__)


def test_done_work_is_reused(stages, tmp_path, capsys):
    config = Config()
    for _ in range(2):
        run_stage(config, tmp_path, "first")
        run_stage(config, tmp_path, "second")
    assert CALLS == [("first", 0), ("second", 300)]
    marker = json.loads((tmp_path / "second" / DONE).read_text(encoding="utf-8"))
    assert marker["fingerprint"] == fingerprint(config, "second")
    assert marker["counts"] == {"rows": 1, "skipped": 2}
    assert marker["seconds"] >= 0
    out = capsys.readouterr().out
    assert re.search(r"second took .* and wrote", out)
    assert "1 rows, 2 skipped" in out
    assert "== first: already done for these settings, reused" in out
    versions = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))
    assert versions["jax"][0].isdigit()
    resolved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert resolved["train"]["steps"] == 300


def test_other_settings_redo_only_what_depends_on_them(stages, tmp_path, capsys):
    long, short = Config(), replaced(Config(), "train.steps", 5)
    for config in (long, short, long, short, short):
        run_stage(config, tmp_path, "first")
        run_stage(config, tmp_path, "second")
    assert CALLS == [("first", 0), ("second", 300), ("second", 5)]  # archived twice, restored twice
    assert (tmp_path / "second" / "out.txt").read_text(encoding="utf-8") == "5"
    (kept,) = (tmp_path / "old").iterdir()
    assert (kept / "out.txt").read_text(encoding="utf-8") == "300"
    out = capsys.readouterr().out
    assert "earlier output was made with other settings or files; moved to" in out
    assert "an earlier run with these settings had finished; reused" in out


def test_unfinished_work_is_kept_for_the_same_settings(stages, tmp_path):
    failing = replaced(Config(), "name", "fails")
    with pytest.raises(DataError, match="on purpose"):
        run_stage(failing, tmp_path, "first")
    assert not (tmp_path / "first" / DONE).exists()
    (tmp_path / "first" / "part.journal").write_text("done so far", encoding="utf-8")
    temporary = tmp_path / "first" / "rows" / ".part.parquet.0123abcd.tmp"
    temporary.parent.mkdir()
    temporary.write_text("left by a killed process", encoding="utf-8")
    run_stage(Config(), tmp_path, "first")  # the name has no effect on the output
    assert not temporary.exists()
    assert (tmp_path / "first" / "part.journal").exists()
    assert (tmp_path / "first" / DONE).exists()


def test_missing_input_stage_is_named(stages, tmp_path):
    with pytest.raises(
        DataError, match=r"first: stage 'first' has not finished for these settings; run `dreamprm first`"
    ):
        run_stage(Config(), tmp_path, "second")
    run_stage(Config(), tmp_path, "first")
    with pytest.raises(DataError, match="stage 'first' has not finished"):
        run_stage(replaced(Config(), "seed", 4), tmp_path, "second")
    assert CALLS == [("first", 0)]


def test_a_folder_without_a_marker_is_archived(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "junk").touch()
    folder = StageFolder(tmp_path / "train", "abc")
    assert not folder.is_done()
    folder.open({})
    assert (tmp_path / "old" / "train-1" / "junk").exists()
    assert [path.name for path in (tmp_path / "train").iterdir()] == [STARTED]
    folder.finish({}, 0.5)
    assert folder.is_done()
    assert not StageFolder(tmp_path / "train", "abd").is_done()


def test_a_second_process_on_a_run_is_rejected(stages, tmp_path):
    holder = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from dreamprm_jax.runs.locks import run_lock
        with run_lock(Path({str(tmp_path)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is working on it; wait for it or stop it"):
            run_stage(Config(), tmp_path, "first")
        assert CALLS == []
        process.kill()  # the kernel releases the lock
    run_stage(Config(), tmp_path, "first")
    assert CALLS == [("first", 0)]
    with open(tmp_path / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_paths_lie_in_their_stage(tmp_path):
    paths = Paths(tmp_path)
    assert paths.problems("meta") == tmp_path / "generate" / "problems_meta.parquet"
    assert paths.corrected_labels("corrected").parent == paths.arm("corrected") == tmp_path / "train" / "corrected"
    for path, stage in (
        (paths.compositions(), "generate"),
        (paths.hidden_tests(), "generate"),
        (paths.outcomes("test"), "label"),
        (paths.truth("train"), "label"),
        (paths.tokenizer(), "train"),
        (paths.scores("orm"), "score"),
        (paths.report(), "report"),
    ):
        assert path.is_relative_to(paths.stage(stage))
