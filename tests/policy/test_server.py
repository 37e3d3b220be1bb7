"""The server policy with a real HTTP server process that answers well or badly."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.engine.concurrent import concurrent_map
from dreamprm_jax.policy.abilities import Abilities
from dreamprm_jax.policy.chat_template import load_chat_template
from dreamprm_jax.policy.continuation import from_chat, from_completion
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import CompletionRequest, PolicyError
from dreamprm_jax.policy.server import ServerPolicy, Usage
from dreamprm_jax.schema import DataError, Problem

PROBLEM = Problem("p", "Double", "Print twice the number.", "own", "c", "2024-01-01", "easy")
PREFIX = 'def main():\n    """Read, double, print."""\n    print(double(int(input())))\n'
METHOD_PREFIX = "class Solution:\n    def double(self, n):\n        return self.helper(n)\n\n"


def log(policy: ServerPolicy) -> list[dict[str, Any]]:
    url = policy.config.base_url.removesuffix("/v1") + f"/log/{policy.name}"
    with urllib.request.urlopen(url) as reply:
        return json.load(reply)


def request(prefix: str = PREFIX, n: int = 4, temperature: float = 0.3, seed: int = 7) -> CompletionRequest:
    return CompletionRequest(PROBLEM, prefix, n, temperature, seed)


def seeds(codes: list[str]) -> list[str]:
    return [code.split("# seed ")[1].split("\n")[0] for code in codes]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], input="21\n", capture_output=True, text=True, check=True).stdout


def test_whole_programs(server):
    policy = server("plain")
    completions = policy.complete(request(prefix=""))
    assert seeds([c.code for c in completions]) == ["7", "8", "9", "10"]
    assert all((c.finish_reason, c.forced) == ("stop", True) for c in completions)
    assert run(completions[0].code) == "42\n"
    (sent,) = log(policy)
    assert sent["prompt"].startswith("<|im_start|>system\n")
    assert "# Double\n\nPrint twice the number." in sent["prompt"]
    assert sent["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n```python\n")
    assert (sent["n"], sent["temperature"], sent["top_p"], sent["max_tokens"]) == (4, 0.3, 1.0, 2048)
    assert sent["stop"] == ["\n```"]
    assert policy.usage == Usage(requests=1, prompt_tokens=100, cached_tokens=64, completion_tokens=40)


@pytest.mark.parametrize("behavior", ["plain", "echo", "repeat"])
def test_a_prefix_is_continued_whatever_the_server_repeats(server, behavior):
    policy = server(behavior)
    completions = policy.complete(request())
    assert [c.forced for c in completions] == [True] * 4
    assert all(c.code.startswith(PREFIX + "\ndef double(n):") for c in completions)
    assert run(completions[3].code) == "42\n"
    assert [step.name for step in split_steps(completions[0].code)] == ["main", "double"]
    assert log(policy)[0]["prompt"].endswith("```python\n" + PREFIX)


def test_a_method_keeps_its_indentation(server):
    (completion,) = server("plain").complete(request(prefix=METHOD_PREFIX, n=1))
    assert completion.code.startswith(METHOD_PREFIX + "    def helper(self, n):\n        ")
    assert [step.name for step in split_steps(completion.code)] == ["Solution.double", "Solution.helper"]


def test_a_server_that_begins_anew_is_marked(server):
    (completion,) = server("restart").complete(request(prefix="import sys\n" + PREFIX, n=1))
    assert not completion.forced
    assert not completion.code.startswith("import sys")
    (whole,) = server("restart").complete(request(prefix="", n=1))
    assert whole.forced


def test_the_token_limit_is_passed_on(server):
    policy = server("cut")
    (completion,) = policy.complete(request(prefix="", n=1))
    assert (completion.finish_reason, completion.code) == ("length", PREFIX[:30])
    assert policy.usage.truncated_answers == 1


def test_half_characters_are_replaced_so_that_the_program_can_be_stored(server):
    (completion,) = server("surrogate").complete(request(prefix="", n=1))
    assert completion.code.encode("utf-8").startswith("# \ufffd".encode())
    assert run(completion.code) == "42\n"


def test_fewer_choices_than_asked_are_made_up_by_single_requests(server):
    policy = server("one")
    completions = policy.complete(request())
    assert [sent["n"] for sent in log(policy)] == [4, 1, 1, 1]
    assert len(set(seeds([c.code for c in completions]))) == 4
    assert policy.usage.missing_choices == 3
    known = server("one", abilities=Abilities(choices=False))
    assert seeds([c.code for c in known.complete(request())]) == seeds([c.code for c in completions])
    assert [sent["n"] for sent in log(known)] == [1, 1, 1, 1]


def test_choices_that_are_missing_are_asked_for_again(server):
    policy = server("few")
    assert len(set(seeds([c.code for c in policy.complete(request())]))) == 4
    assert [sent["n"] for sent in log(policy)] == [4, 1]
    assert policy.usage.missing_choices == 1


def test_a_limit_on_n_is_learnt(server):
    policy = server("most_3")
    assert len(set(seeds([c.code for c in policy.complete(request(n=5))]))) == 5
    policy.complete(request(n=4))
    assert [sent["n"] for sent in log(policy)] == [5, 2, 2, 1, 2, 2]


def test_a_prefix_may_be_cut_before_its_line_break(server):
    """Answers that continue with the line break, or that end, are accepted. Other answers are drawn again."""
    policy = server("line", prefix_end="before_newline")
    completions = policy.complete(request())
    assert all(c.forced and c.code.startswith(PREFIX) for c in completions)
    assert {c.code[len(PREFIX) :][:5] for c in completions} == {"", "x = 1"}
    assert log(policy)[0]["prompt"].endswith("print(double(int(input())))")
    assert policy.usage.rejected_answers == sum(sent["n"] for sent in log(policy)) - 4 > 0
    stubborn = server("strip", prefix_end="before_newline")
    assert all(c.code.startswith(PREFIX + "def double") for c in stubborn.complete(request()))
    assert stubborn.usage.rejected_answers == 16  # then the prefix is sent in the other form
    assert policy.sampling(0)["prefix_end"] == "before_newline"


def test_greedy_requests_are_asked_once(server):
    policy = server("plain")
    completions = policy.complete(request(temperature=0))
    assert len(completions) == 4
    assert [sent["n"] for sent in log(policy)] == [1]


@pytest.mark.parametrize("behavior", ["fail500_2", "malformed_2", "empty_2", "fail429_2"])
def test_passing_faults_are_retried(server, behavior):
    policy = server(behavior)
    start = time.monotonic()
    assert len(policy.complete(request())) == 4
    assert (policy.usage.requests, policy.usage.retries) == (1, 2)
    assert len(log(policy)) == 3
    if behavior == "fail429_2":
        assert time.monotonic() - start >= 0.6  # twice the Retry-After of the server


def test_lasting_faults_are_errors_that_say_so(server):
    policy = server("fail500_99", max_retries=2)
    with pytest.raises(PolicyError, match=r"failed 3 times, last with InternalServerError.*out of memory"):
        policy.complete(request())
    assert len(log(policy)) == 3
    with pytest.raises(PolicyError, match="failed 1 times, last with MalformedReply"):
        server("malformed_99", max_retries=0).complete(request())
    with pytest.raises(PolicyError, match="failed 2 times, last with APITimeoutError"):
        server("slow", max_retries=1, timeout_seconds=0.1).complete(request())


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("denied", r"HTTP 401, the key was refused; .*api_key_env"),
        ("quota", r"HTTP 429, the account's quota is used up"),
    ],
)
def test_refusals_are_not_retried(server, behavior, message):
    policy = server(behavior)
    with pytest.raises(PolicyError, match=message):
        policy.complete(request())
    assert len(log(policy)) == 1


@pytest.mark.parametrize(
    ("text", "code", "forced"),
    [
        ("\ndef double(n):\n    return 2 * n", PREFIX + "\ndef double(n):\n    return 2 * n\n", True),
        ("", PREFIX, True),
        ("```\nThat is all.", PREFIX, True),
        ("Sure! Here is the code:", "", False),
        ("Sure! Here is the code:\n```python\nx = 1\n```\n", "x = 1\n", False),
        ("```python\nx = 1\n```", "x = 1\n", False),
        (PREFIX + "main()", PREFIX + "main()\n", True),
        ("\ndef main():\n    print(1)\n\nmain()", "\ndef main():\n    print(1)\n\nmain()\n", False),
        ("print x", PREFIX + "print x\n", True),
        ('raise ValueError("Input must be', PREFIX + 'raise ValueError("Input must be\n', True),
    ],
)
def test_what_does_not_continue_the_prefix_is_not_joined_to_it(text, code, forced):
    completion = from_completion(text, "prompt", PREFIX, "stop")
    assert (completion.code, completion.forced) == (code, forced)


def test_where_the_context_is_short_the_answer_is(server):
    policy = server("overflow_600")
    assert len(policy.complete(request())) == 4
    assert [sent["max_tokens"] for sent in log(policy)] == [2048, 1024, 512]
    full = server("overflow_1")
    completions = full.complete(request())
    assert [(c.code, c.fault) for c in completions] == [(PREFIX, "context overflow")] * 4
    assert (full.usage.truncated_answers, full.usage.context_overflows, full.usage.requests) == (0, 4, 0)


def test_chat_only_servers_see_the_prefix_as_starter_code(server):
    policy = server("plain", continuation="chat")
    completions = policy.complete(request(n=2))
    assert [c.forced for c in completions] == [False, False]
    assert run(completions[0].code) == "42\n"
    (sent,) = log(policy)
    assert sent["path"] == "/v1/chat/completions"
    assert f"```python\n{PREFIX}```" in sent["messages"][1]["content"]
    assert policy.complete(request(prefix="", n=1))[0].forced


def test_requests_run_at_once_and_keep_their_order(server):
    policy = server("slow")
    requests = [request(n=1, seed=seed) for seed in range(8)]
    start = time.monotonic()
    answers = list(concurrent_map(policy.complete, requests, threads=8))
    assert time.monotonic() - start < 5  # eight answers of one second each
    assert seeds([completions[0].code for _, completions in answers]) == [str(seed) for seed in range(8)]


def test_sampling_parameters_and_settings(server, address, monkeypatch):
    policy = server("plain")
    assert policy.sampling(0.3) == {
        "model": policy.name,
        "temperature": 0.3,
        "top_p": 1.0,
        "max_tokens": 2048,
        "continuation": "completions",
        "prefix_end": "newline",
        "prompt": "cof-1",
        "chat_template": load_chat_template("").identity,
        "seeds": True,
    }
    assert server("plain", extra_body='{"top_k": 20}').sampling(0)["extra_body"] == {"top_k": 20}
    with pytest.raises(DataError, match=r"policy\.extra_body: '\[1\]' is not a JSON object"):
        server("plain", extra_body="[1]")
    with pytest.raises(DataError, match=r"policy\.model is empty"):
        make_policy(PolicyConfig(kind="server", base_url=f"{address}/v1"))
    real_import = builtins.__import__

    def without_openai(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return real_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(DataError, match=r'pip install "dreamprm-jax\[server\]"'):
        make_policy(PolicyConfig(kind="server", base_url=f"{address}/v1", model="m"))


PARTS = ["```", "```python\n", "\n", "    ", "def f(x):", "return 1", "class A:", "x = 1", PREFIX, METHOD_PREFIX, "é"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["", PREFIX, METHOD_PREFIX]), st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_whatever_a_server_answers_forced_programs_begin_with_the_prefix(prefix, text):
    for reason in ("stop", "length"):
        completion = from_completion(text, "prompt", prefix, reason)
        assert completion.code.startswith(prefix) or not completion.forced
        assert from_chat(text, prefix, reason).forced == (not prefix)
