"""The command line: help without jax, and errors that name the invalid input."""

import itertools
import subprocess
import sys

import pytest

from dreamprm_jax.cli.main import main as cli_main
from dreamprm_jax.cli.registry import OTHER_COMMANDS, STAGE_COMMANDS
from dreamprm_jax.config import load_config

COMMANDS = list({**STAGE_COMMANDS, **OTHER_COMMANDS})
NO_JAX = "import sys; assert not {'jax', 'jaxlib', 'flax', 'optax', 'orbax'} & set(sys.modules)"
CONFIG = """
from dreamprm_jax.config import defaults


def get_config():
    config = defaults()
    config.name = "written"
    config.train.steps = 7
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def dreamprm(capsys, *arguments):
    """Exit status, standard output and standard error of one command."""
    try:
        status = cli_main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_help_and_imports_load_no_jax():
    script = (
        "import dreamprm_jax\n"
        f"{NO_JAX}\n"
        "from dreamprm_jax.cli import main as cli\n"
        "assert cli.main(['--help']) == 0\n"
        f"for command in {COMMANDS}:\n"
        "    try:\n"
        "        cli.main([command, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, command\n"
        f"{NO_JAX}\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("usage: dreamprm") == 1 + len(COMMANDS)


def test_installed_command_answers():
    run = subprocess.run(
        [sys.executable, "-m", "dreamprm_jax.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("dreamprm 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys, command):
    status, out, _ = dreamprm(capsys, command, "--help")
    assert status == 0
    assert f"usage: dreamprm {command}" in out
    lines = [*out.splitlines(), ""]
    for line, described in itertools.pairwise(lines):  # every setting has a description below it
        assert not line.startswith("  --config.") or described.startswith("        "), line
    if command == "label":
        assert "--config.label.rollouts=4" in out
        assert "--config.policy.kind=simulated" in out  # a setting of its input stage
        assert "--config.train.steps" not in out


def test_no_command_shows_the_usage(capsys):
    status, out, _ = dreamprm(capsys)
    assert status == 2
    assert all(f"  {name} " in out for name in COMMANDS)


def test_unknown_command_suggests(capsys):
    status, _, err = dreamprm(capsys, "trian")
    assert status == 2
    assert "unknown command 'trian'; did you mean 'train'?" in err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.stpes=5", "no field 'train.stpes'; did you mean 'train.steps'?"),
        ("--config.zzzzqqqq=5", "no field 'zzzzqqqq'"),
        ("--config.train.steps", "field 'train.steps' needs a value: --config.train.steps=VALUE"),
        ("--config.train.steps=many", "steps"),
        ("--config.train.steps=1.5", "steps"),
        ("--config.policy.kind=gpt", "config.policy.kind='gpt': must be one of 'simulated', 'server', 'replay'"),
        ("--steps=5", "unrecognized argument '--steps=5'"),
    ],
)
def test_bad_override_is_named(capsys, config_file, tmp_path, override, message):
    status, _, err = dreamprm(capsys, "generate", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", override)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_config_file_that_is_missing_or_wrong(capsys, tmp_path):
    status, _, err = dreamprm(capsys, "train", f"--config={tmp_path / 'none.py'}")
    assert status == 2
    assert f"{tmp_path / 'none.py'}: no such file" in err
    assert dreamprm(capsys, "train")[0] == 2
    path = tmp_path / "wrong.py"
    for text, message in (
        ("x = 1\n", f"{path} has no function 'get_config'"),
        ("def get_config():\n    pass\n", f"{path}: needs a function get_config() that returns config.defaults()"),
        ("def get_config(:\n", f"{path}, line 1: invalid syntax"),
        ("import math\n\nmath.inf / 0\n", f"{path}, line 3: ZeroDivisionError"),
        (CONFIG.replace("train.steps", "train.stpes"), "no field 'train.stpes'; did you mean 'train.steps'?"),
        (CONFIG.replace("= 7", "= 'seven'"), f"{path}, line 8: TypeError: Could not override field 'steps'"),
    ):
        path.write_text(text, encoding="utf-8")
        status, _, err = dreamprm(capsys, "train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
        assert (status, "Traceback" in err) == (2, False)
        assert message in err


def test_overrides_reach_the_settings(config_file):
    config = load_config(
        str(config_file),
        ["--config.train.learning_rate=3e-4", "--config.train.arms=('raw',)", "--config.problems.path=a=b.jsonl"],
    )
    assert (config.name, config.train.steps, config.train.learning_rate) == ("written", 7, 3e-4)
    assert config.train.arms == ("raw",)
    assert config.problems.path == "a=b.jsonl"


def test_stage_without_its_input_says_what_to_run(capsys, config_file, tmp_path):
    status, _, err = dreamprm(capsys, "label", f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    assert status == 2
    assert "stage 'generate' has not finished for these settings; run `dreamprm generate` first" in err


def test_an_address_is_no_workdir(capsys, config_file):
    status, _, err = dreamprm(capsys, "generate", f"--config={config_file}", "--workdir=gs://bucket/run")
    assert status == 2
    assert "--workdir=gs://bucket/run: must be a folder of a mounted file system" in err


def test_evaluate_wants_both_files(capsys, config_file):
    status, _, err = dreamprm(capsys, "evaluate", f"--config={config_file}", "--problems=a.jsonl")
    assert status == 2
    assert "--problems and --candidates: give both or neither" in err


def test_help_shows_the_values_of_the_given_config_in_groups(repository, capsys):
    with pytest.raises(SystemExit):
        cli_main(["run", f"--config={repository / 'configs/embedded.py'}", "--config.seed=7", "--help"])
    shown = capsys.readouterr().out
    steps = load_config(str(repository / "configs/embedded.py"), []).train.steps
    assert f"--config.train.steps={steps}\n" in shown
    assert "--config.seed=7\n" in shown
    assert "\n train:\n" in shown
