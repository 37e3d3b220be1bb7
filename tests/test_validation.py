"""Settings are checked before any file is opened or moved; a failed start changes nothing in the workdir."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.config import Config, freeze, leaves, to_dict
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages.ignored_settings import NEEDS, ignored_settings
from dreamprm_jax.stages.validation import check_environment, validate

REPOSITORY = Path(__file__).resolve().parents[1]


def changed(**values: Any) -> Config:
    """The defaults with some fields changed; dots in field names are written as double underscores."""
    settings = to_dict(Config())
    for name, value in values.items():
        *sections, field = name.split("__")
        place = settings
        for section in sections:
            place = place[section]
        place[field] = value
    return freeze(settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__arms": ("raw", "labeltable")}, "config.train.arms: unknown arm 'labeltable'; choose among orm"),
        ({"train__arms": ()}, "config.train.arms is empty"),
        ({"name": ""}, "config.name is empty"),
        ({"seed": 10**400}, "must be at most 9223372036854775807"),
        ({"train__arms": ("raw", "raw")}, "config.train.arms: raw, raw: an item is repeated"),
        ({"train__labels__method": "ems"}, "config.train.labels.method: no labeling 'ems'"),
        ({"train__optimizer": "adam"}, "config.train.optimizer='adam': must be 'adamw' or FILE.py:FUNCTION"),
        ({"train__learning_rate": -1.0}, "config.train.learning_rate=-1.0: must be above 0"),
        ({"train__learning_rate": float("nan")}, "config.train.learning_rate=nan: must be finite"),
        ({"train__clip_norm": 0.0}, "config.train.clip_norm=0.0: must be above 0"),
        ({"train__steps": 0}, "config.train.steps=0: must be at least 1"),
        ({"train__accumulation": 3}, "config.train.accumulation=3: must divide batch_size=8"),
        ({"train__meta__accumulation": 3}, "config.train.meta.accumulation=3: must divide meta.batch_size=8"),
        ({"train__master_weights": True}, "config.train.master_weights is for trainable bfloat16 parameters"),
        ({"train__mesh__fsdp": 0}, "at most one is -1"),
        (
            {"train__arms": ("label_table",), "train__meta__every": 1000},
            "config.train.meta.every=1000: no outer step in 300 steps; must be at most 300",
        ),
        (
            {"train__labels__method": "own.py:f", "train__meta__unroll": 301},
            "config.train.meta.unroll=301: must be at most train.steps=300",
        ),
        (
            {"train__profile_steps": 1, "train__profile_from": 600},
            "config.train.profile_from=600: must be below warmup_steps + steps = 600",
        ),
        ({"train__labels__floor": 1e-9}, "config.train.labels.floor=1e-09: must be at least 1e-06"),
        ({"train__learning_rate": 1e300}, "learning_rate=1e+300: must be 0 or within the range of float32, 1.2e-38 to"),
        ({"model__rope_theta": 1e-320}, "config.model.rope_theta=1e-320: must be 0 or within the range of float32"),
        ({"label__prior_alpha": 1e308}, "config.label.prior_alpha=1e+308: must be at most 1e+09"),
        ({"train__adam_b2": 1.0}, "config.train.adam_b2=1.0: must be at most 0.999999"),
        ({"seed": 2**63}, "config.seed=9223372036854775808: must be at most 9223372036854775807"),
        ({"model__vocab_size": 256}, "config.model.vocab_size=256: must be at least 257"),
        ({"sandbox__memory_bytes": 1}, "config.sandbox.memory_bytes=1: must be at least 1048576"),
        ({"sandbox__output_bytes": 1 << 51}, "config.sandbox.output_bytes=2251799813685248: must be at most 112589990"),
        ({"policy__timeout_seconds": 1e300}, "config.policy.timeout_seconds=1e+300: must be at most 1e+09"),
        (
            {"policy__kind": "server", "policy__model": "m", "policy__base_url": "localhost:8000"},
            "config.policy.base_url='localhost:8000': must start with http:// or https://",
        ),
        (
            {"label__strategy": "adaptive", "label__rollouts": 1},
            "config.label.min_rollouts=2: must be at most rollouts=1 and max_rollouts=16",
        ),
        ({"label__strategy": "binary_search", "label__judge_share": 0.5}, "config.label.judge_share=0.5: must be 1"),
        ({"label__count_program": True}, "config.label.temperature=0.3 must be equal, or count_program=False"),
        (
            {"label__count_program": True, "generate__candidates": "x.jsonl"},
            "config.label.count_program needs programs by the policy, not those of config.generate.candidates",
        ),
        ({"distributed__mode": "explicit"}, "config.distributed.coordinator_address='': must be host:port"),
        (
            {"distributed__mode": "explicit", "distributed__coordinator_address": "h:1"},
            "config.distributed.process_id=-1: must be from 0 to num_processes - 1",
        ),
        ({"train__arms": ("stored",)}, "config.train.labels.stored is empty"),
        (
            {"train__arms": ("clean",), "problems__source": "leetcode", "policy__kind": "replay", "policy__path": "x"},
            "config.train.labels.clean_labels: labelings clean and calibrator need a file",
        ),
        ({"model__num_heads": 3}, "config.model.hidden_size=128: must be a multiple of num_heads=3"),
        ({"model__num_kv_heads": 3}, "config.model.num_heads=4: must be a multiple of num_kv_heads=3"),
        ({"generate__test_programs": 0}, "config.generate.test_programs=0: must be at least 1"),
        ({"generate__temperature": -0.1}, "config.generate.temperature=-0.1: must be at least 0"),
        ({"label__rollouts": -4}, "config.label.rollouts=-4: must be at least 1"),
        ({"label__judge_share": 0.0}, "config.label.judge_share=0.0: must be above 0"),
        ({"problems__test_count": 0}, "config.problems.test_count=0: must be at least 1"),
        ({"evaluate__bootstrap_samples": 0}, "config.evaluate.bootstrap_samples=0: must be at least 1"),
        ({"sandbox__wall_seconds": 0.0}, "config.sandbox.wall_seconds=0.0: must be above 0"),
        ({"problems__source": "leetcode"}, "needs a policy that can write"),
        ({"problems__exclude": "x"}, "config.problems.exclude: the procedural benchmark has no problems to exclude"),
        ({"policy__kind": "replay"}, "config.policy.path is empty"),
        ({"policy__kind": "server"}, "config.policy.model is empty"),
        ({"policy__extra_body": "{"}, "config.policy.extra_body: not valid JSON"),
        ({"sandbox__checker": "exakt"}, "config.sandbox.checker: 'exakt' is not one of exact, tokens"),
        ({"sandbox__checker": "abs=x"}, "config.sandbox.checker: abs=x: needs a number after ="),
        ({"policy__extra_body": "[1]"}, "config.policy.extra_body: must be a JSON object"),
        (
            {"problems__source": "livecodebench", "policy__kind": "replay", "policy__path": "x",
             "problems__train_before": "2025-13-01"},
            "problems.train_before: '2025-13-01' is not an ISO 8601 date",
        ),
        (
            {"problems__source": "livecodebench", "policy__kind": "replay", "policy__path": "x",
             "problems__release": "release_v9"},
            "problems.release 'release_v9': no such release",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        validate(changed(**values))
    assert message in str(error.value)


def test_wrong_types_and_choices_are_named_with_their_field() -> None:
    with pytest.raises(DataError, match=r"model\.lora\.targets.*'qq'|model\.lora\.targets"):
        changed(model__lora__targets=("q", "qq"))
    with pytest.raises(DataError, match=r"search\.methods"):
        changed(search__methods=("beams",))


@pytest.mark.parametrize("value", [0, -1, 10**9, float("nan")])
def test_any_number_is_valid_or_refused_by_its_field(value: float) -> None:
    """No number makes a check raise another error, such as a division by zero or an overflow."""
    for name, default, _ in leaves(Config()):
        if isinstance(default, bool) or not isinstance(default, (int, float)):
            continue
        if isinstance(default, int) and value != value:
            continue
        with contextlib.suppress(DataError):
            validate(changed(**{name.replace(".", "__"): type(default)(value)}))


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(DataError) as error:
        validate(changed(train__steps=0, model__num_kv_heads=3, train__arms=("x",)))
    assert [line.split("=")[0].split(":")[0] for line in str(error.value).splitlines()[1:]] == [
        "  config.train.steps",
        "  config.model.num_heads",
        "  config.train.arms",
    ]


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("configs/**/*.py")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "study" in path.parts:
        pytest.skip("the settings of the study")
    from dreamprm_jax.config import load_config

    validate(load_config(str(path), []))


def test_missing_files_and_packages_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamprm_jax.stages.validation._installed", lambda package: False)
    config = changed(
        policy__kind="server", policy__model="m", policy__chat_template=str(tmp_path / "no.jinja"),
        engine__executor="ray", train__wandb_project="p", model__weights=str(tmp_path / "weights"),
        train__optimizer=f"{tmp_path}/mine.py:make", problems__source="livecodebench",
        problems__path=str(tmp_path / "rows.jsonl"), train__arms=("stored",), train__labels__stored="stored.parquet",
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        check_environment(config)
    for part in (
        "no.jinja: no such file", "weights: no such file", "mine.py: no such file", "rows.jsonl: no such file",
        "config.train.labels.stored: stored.parquet", "package openai is not", "package ray is not", "package wandb",
    ):  # fmt: skip
        assert part in str(error.value), part
    with pytest.raises(DataError) as error:
        check_environment(config, ("label",))
    assert "rows.jsonl" not in str(error.value)
    assert "package ray" in str(error.value)
    check_environment(changed(model__weights="Qwen/Qwen2.5-Coder-3B"))  # a hub id


def test_packages_of_programs_must_be_installed() -> None:
    config = changed(sandbox__packages=("numpy", "no_such_package"))
    with pytest.raises(DataError, match=r"sandbox\.packages: 'no_such_package' is not installed"):
        check_environment(config, ("label",))
    check_environment(config, ("train",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.steps=1.5", "config.train.steps=1.5: must be an integer"),
        ("--config.train.learning_rate=x", "config.train.learning_rate=x: must be a number"),
        ("--config.evaluate.execute=x", "config.evaluate.execute=x: must be true or false"),
        ("--config.train.arms=orm,raw", r"""several items as "--config.train.arms=\('orm','raw'\)\""""),
    ],
)
def test_values_of_the_wrong_type_on_the_command_line(override: str, message: str) -> None:
    from dreamprm_jax.config import load_config

    with pytest.raises(DataError, match=message):
        load_config("", [override])


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "override",
    ["--config.train.arms=('raw','labeltable')", "--config.train.labels.stored=/no/file", "--config.train.steps=0"],
)
def test_a_failed_start_changes_nothing(tmp_path: Path, tiny_config: Config, override: str) -> None:
    """A typo must not invalidate a finished model."""
    root = tmp_path / "run"
    (root / "train" / "raw").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "train" / "DONE.json").write_text('{"fingerprint": "f", "counts": {}}')
    before = snapshot(root)
    arguments = [f"--config={REPOSITORY / 'configs/embedded.py'}", f"--workdir={root}", override]
    if "stored" in override:
        arguments.append("--config.train.arms=('stored',)")
    for command in ("run", "train"):
        assert main([command, *arguments]) == 2
    assert main(["validate", *(argument for argument in arguments if "workdir" not in argument)]) == 2
    assert snapshot(root) == before
    assert not (root / "old").exists()


def test_validate_command(capsys: pytest.CaptureFixture[str]) -> None:
    config = f"--config={REPOSITORY / 'configs/embedded.py'}"
    assert main(["validate", config, "--config.train.profile_from=3"]) == 0
    note, last = capsys.readouterr().out.splitlines()
    assert note == "note: config.train.profile_from: no effect without config.train.profile_steps"
    assert last.endswith("embedded.py: valid")


TABLE = {"train__arms": ("label_table",)}


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        ({}, []),
        ({**TABLE, "train__meta__reuse_forward": True}, []),
        (
            {**TABLE, "train__meta__reuse_forward": True, "train__meta__unroll": 2},
            ["reuse_forward: .*train.meta.unroll=1"],
        ),
        (
            {**TABLE, "train__meta__reuse_forward": True, "train__accumulation": 2},
            ["reuse_forward: .*train.accumulation=1"],
        ),
        (
            {"train__meta__every": 2, "train__meta__unroll": 2},
            ["train.meta.unroll, config.train.meta.every: .*=label_table"],
        ),
        ({"train__arms": ("orm", "gce"), "train__labels__gce_q": 0.5}, []),
        (
            {"train__labels__gce_q": 0.5, "model__lora__alpha": 8.0},
            ["alpha: .*config.model.lora.rank$", "q: .*loss=gce"],
        ),
        (
            {"train__step_data__evaluation": "x"},
            ["step_data.evaluation: no effect without config.train.step_data.path"],
        ),
        (
            {"problems__source": "livecodebench", "problems__test_count": 5, "evaluate__vote_inputs": 3},
            ["problems.test_count: .*=procedural or file", "vote_inputs: .*problems.source=procedural$"],
        ),
        (
            {
                "generate__candidates": "x",
                "generate__temperature": 0.5,
                "policy__kind": "replay",
                "label__temperature": 0.5,
            },
            ["generate.temperature, config.label.temperature: .*=simulated or server"],
        ),
        (
            {"generate__candidates": "x", "generate__temperature": 0.5},
            ["temperature: .*config.generate.candidates=''$"],
        ),
        (
            {"policy__kind": "server", "policy__continuation": "chat", "policy__prefix_end": "before_newline"},
            ["prefix_end: .*continuation=completions"],
        ),
        ({"train__arms": ("weight_table",), "train__labels__floor": 0.1}, ["floor: .*=label_table or corrector_net"]),
        ({"train__labels__method": "own.py:f", "train__labels__floor": 0.1, "train__labels__corrector_hidden": 8}, []),
        (
            {
                "train__arms": ("clean",),
                "train__labels__clean_labels": "x",
                "train__labels__clean_target": "recoverable",
            },
            ["clean_target: .*clean_labels=''$"],
        ),
        ({"model__attention": "einsum", "model__attention_chunk": 64}, ["attention_chunk: .*=auto or chunked"]),
        ({"model__attention_chunk": 64}, []),
        ({"model__weights": "smollm2", "model__tokenizer_pieces": "lines"}, ["tokenizer_pieces: .*weights=''$"]),
        ({"distributed__compile_cache": "x"}, ["compile_cache: .*mode=auto or explicit"]),
    ],
)
def test_settings_without_effect_are_named(values: dict[str, Any], notes: list[str]) -> None:
    found = ignored_settings(changed(**values))
    assert len(found) == len(notes), found
    for line, note in zip(found, notes, strict=True):
        assert re.search(note, line), line


def test_conditions_name_settings() -> None:
    names = [name for name, _, _ in leaves(Config())]
    for parts, other, _ in NEEDS:
        assert other in names
        for part in parts.split():
            assert any(name == part or name.startswith(f"{part}.") for name in names), part


def test_ranges_of_every_number() -> None:
    """Every number has a limit."""
    free = {
        name
        for name, value, info in leaves(Config())
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        and info.minimum is info.maximum is info.above is None
    }  # fmt: skip
    assert not free


def test_every_setting_has_a_description() -> None:
    for name, _, info in leaves(Config()):
        assert info.help.endswith("."), name
    assert dataclasses.is_dataclass(Config)
