"""Detection of a server's abilities before the first request; server outages; the file that records usage."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import openai
import pytest
from openai_server import Handler

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.abilities import Abilities
from dreamprm_jax.policy.protocol import CompletionRequest, PolicyError
from dreamprm_jax.policy.server import ServerPolicy
from dreamprm_jax.policy.transport import _retry_after
from dreamprm_jax.runs.server_usage import USAGE_FILE, Usage, UsageLog, spent
from dreamprm_jax.schema import DataError, Problem

PROBLEM = Problem("p", "Double", "Print twice the number.", "own", "c", "2024-01-01", "easy")
REQUEST = CompletionRequest(PROBLEM, "", 2, 0.5, 3)


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        ("plain", {}),
        ("one", {"choices": False}),
        ("noseed", {"seeds": False}),
        ("nochoice", {"choices": False, "refused": ("n",)}),
        ("bare", {"logprobs": False, "usage": "none", "cached_tokens": False}),
    ],
)
def test_what_a_server_can_do(server, behavior, expected):
    assert server(behavior, abilities=None, logprobs=behavior != "bare").abilities == Abilities(**expected)


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("strip", r"strips the spaces that an answer begins with, .*set config\.policy\.continuation='chat'"),
        ("restart", r"answers as in a chat .*set config\.policy\.continuation='chat'"),
    ],
)
def test_a_server_that_does_not_continue_prompts_is_refused(server, behavior, message):
    with pytest.raises(DataError, match=message):
        server(behavior, abilities=None).complete(REQUEST)


def test_a_reasoning_model_is_asked_in_the_words_that_it_takes(server):
    policy = server("reasoning", abilities=None, continuation="chat")
    completions = policy.complete(CompletionRequest(PROBLEM, "import sys\n", 2, 0.5, 3))
    assert [completion.forced for completion in completions] == [False, False]
    assert policy.abilities.continues is None
    assert policy.abilities.refused == ("max_tokens", "temperature=0.5", "top_p=1", "temperature=1")
    assert policy.sampling(0.5)["not_sent"] == ["max_tokens", "temperature", "top_p"]
    with pytest.raises(DataError, match=r"cannot be used: .*HTTP 404, .*set policy\.continuation='chat'"):
        server("reasoning", abilities=None).complete(REQUEST)


def test_it_is_asked_once_printed_once_and_kept_with_the_stage(server, tmp_path, capsys):
    policy = server("one", tmp_path, abilities=None)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(policy.complete, [REQUEST] * 4))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "one choice per request for any n; seeds honored; token counts of all choices" in printed
    assert policy.usage.requests == 8  # requests of the probe are not counted
    assert json.loads((tmp_path / "server.json").read_text())["choices"] is False
    again = ServerPolicy(policy.config, tmp_path)
    assert again.sampling(0.5) == policy.sampling(0.5)  # taken from the record, without a server
    again.complete(REQUEST)
    assert capsys.readouterr().out == ""
    assert spent(tmp_path) == {
        "requests": 10,
        "retries": 0,
        "prompt tokens": 1000,
        "cached tokens": 640,
        "completion tokens": 100,
        "truncated answers": 0,
    }


def test_log_probabilities(server):
    assert server("plain", logprobs=True).complete(REQUEST)[0].log_probability == -1.0
    assert server("plain").complete(REQUEST)[0].log_probability is None
    with pytest.raises(DataError, match=r"policy\.logprobs: .* gives no log-probabilities"):
        server("bare", abilities=None, logprobs=True).complete(REQUEST)


def test_no_server_at_all(capsys):
    config = PolicyConfig(kind="server", base_url="http://127.0.0.1:9/v1", model="m", max_retries=1, outage_seconds=0.3)
    policy = ServerPolicy(config, backoff_seconds=0.01)
    with pytest.raises(DataError, match=r"cannot be used: .*failed \d+ times, last with APIConnectionError"):
        policy.complete(REQUEST)
    assert capsys.readouterr().out.count("waiting for http://127.0.0.1:9/v1, model m, at most 0.3 s") == 1
    with pytest.raises(DataError, match="cannot be used"):
        ServerPolicy(config, backoff_seconds=0.01).sampling(0.5)


def test_a_server_that_is_loading_is_waited_for(server, capsys):
    policy = server("loading_3", abilities=None, max_retries=0)
    assert len(policy.complete(REQUEST)) == 2
    assert "HTTP 503, the server failed: Loading model" in capsys.readouterr().out


def listen(port: int = 0) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def test_a_server_that_comes_back_is_waited_for_and_one_that_does_not_is_given_up():
    server = listen()
    port = server.server_address[1]
    settings: dict[str, Any] = {"kind": "server", "base_url": f"http://127.0.0.1:{port}/v1", "max_retries": 0}
    policy = ServerPolicy(PolicyConfig(model="plain:outage", **settings), backoff_seconds=0.05)
    policy.complete(REQUEST)
    policy._transport._client.close()  # later connections are new
    server.shutdown()
    server.server_close()
    policy = ServerPolicy(PolicyConfig(model="plain:outage", **settings), None, Abilities(), 0.05)
    refused, wait_seconds = [], policy._transport._wait_seconds

    def counted(retries: int, error: Any) -> float:
        refused.append(retries)
        return wait_seconds(retries, error)

    policy._transport._wait_seconds = counted  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(policy.complete, REQUEST) for _ in range(3)]
        while len(refused) < 9 and not any(answer.done() for answer in answers):
            time.sleep(0.02)
        assert not any(answer.done() for answer in answers)
        server = listen(port)
        assert [len(answer.result()) for answer in answers] == [2, 2, 2]
    assert policy.usage.retries > 3  # more than max_retries
    server.shutdown()
    server.server_close()
    policy.close()
    short = ServerPolicy(PolicyConfig(model="plain:outage", outage_seconds=0.2, **settings), None, Abilities(), 0.05)
    with pytest.raises(PolicyError, match="APIConnectionError"):
        short.complete(REQUEST)
    with pytest.raises(PolicyError, match="failed 1 times"):  # it does not wait again
        short.complete(REQUEST)


def test_a_server_that_goes_away_during_a_long_answer_is_waited_for():
    server = listen()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    settings: dict[str, Any] = {"base_url": url, "max_retries": 0, "outage_seconds": 0.5}
    policy = ServerPolicy(PolicyConfig(kind="server", model="plain", **settings), None, Abilities(), 0.05)
    once, attempts = policy._transport._once, []

    def broken_off(parameters: dict[str, Any]) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            time.sleep(0.7)  # longer than an outage may last
            raise openai.APIConnectionError(message="Connection reset.", request=httpx.Request("POST", url))
        return once(parameters)

    policy._transport._once = broken_off  # type: ignore[method-assign]
    assert len(policy.complete(REQUEST)) == 2
    server.shutdown()
    server.server_close()


def test_requests_at_a_time_are_bounded(server):
    policy = server("slow", concurrency=2)
    with ThreadPoolExecutor(6) as pool:
        start = time.monotonic()
        list(pool.map(policy.complete, [REQUEST] * 4))
    assert time.monotonic() - start >= 2  # four answers of one second each, two at a time


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("1e9", 60.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 60.0),
    ],
)
def test_how_long_a_server_asks_to_wait(header, seconds):
    class Response:
        headers = {"retry-after": header}  # noqa: RUF012

    error = RuntimeError()
    error.response = Response()  # type: ignore[attr-defined]
    assert _retry_after(error) == seconds


def test_usage_adds_up_over_processes_and_survives_a_line_that_was_cut(tmp_path):
    for _ in range(2):
        UsageLog(tmp_path).add(Usage(requests=1, prompt_tokens=5, context_overflows=1))
    with open(tmp_path / USAGE_FILE, "a") as file:
        file.write("[1, 2")
    assert spent(tmp_path)["prompt tokens"] == 10
    assert spent(tmp_path)["context overflows"] == 2
    assert spent(tmp_path / "nowhere") == {}
