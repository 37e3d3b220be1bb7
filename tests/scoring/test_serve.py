"""dreamprm serve: a real process and real HTTP requests."""

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.scoring.batcher import Batcher, Busy
from dreamprm_jax.scoring.protocol import parse_steps
from dreamprm_jax.scoring.scorer import Reading, Scorer

pytest.importorskip("aiohttp", reason="needs the extra 'serve'")


class Server:
    """The server process, and a method that sends a request."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "dreamprm_jax.cli", "serve", f"--prm={folder}", "--port=0", "--name=tiny"]
        limits = ["--max-body-bytes=400000", "--max-request-tokens=3000", "--row-tokens=512", "--batch-tokens=1024"]
        self.process = subprocess.Popen(
            [*command, *limits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        line = self.process.stdout.readline()
        match = re.search(r"serving tiny \(sha256:\w+\) on http://127\.0\.0\.1:(\d+)", line)
        assert match, line + self.process.stderr.read()
        self.port = int(match[1])

    def ask(self, method, path, body=None):
        """Sends a request. Returns (status, headers, parsed body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), json.loads(text)


@pytest.fixture(scope="module")
def server(prm_folder):
    running = Server(prm_folder)
    yield running
    running.process.kill()
    running.process.communicate()


def steps_body(problem, codes):
    return {"problem": {name: getattr(problem, name) for name in ("title", "statement", "platform")}, "codes": codes}


@pytest.mark.slow
def test_step_scores_equal_batch_scoring_for_concurrent_clients(server, prm, scorer, written):
    wanted = [scorer.logits(parse_steps(steps_body(problem, codes), prm).readings) for problem, codes in written]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda w: server.ask("POST", "/score_steps", steps_body(w[0], w[1])), written))
    for (_, codes), logits, (status, _, body) in zip(written, wanted, answers, strict=True):
        assert status == 200
        assert body["model"] == "tiny"
        for code, values, result in zip(codes, logits, body["results"], strict=True):
            assert [(s["start"], s["end"], s["name"]) for s in result["steps"]] == [
                (s.start, s.end, s.name) for s in split_steps(code)
            ]
            np.testing.assert_allclose([s["logit"] for s in result["steps"]], values, atol=1e-4)
            scores = 1 / (1 + np.exp(-values))
            np.testing.assert_allclose([s["score"] for s in result["steps"]], scores, atol=1e-4)


@pytest.mark.slow
def test_pooling_is_that_of_vllm(server, prm, scorer, written):
    problem, codes = written[0]
    (reading, *_) = parse_steps(steps_body(problem, codes[:1]), prm).readings
    ids = reading.tokens.tolist()
    (every,) = scorer.logits([Reading(reading.tokens, np.arange(len(ids)))])
    scores = 1 / (1 + np.exp(-every))

    status, _, body = server.ask("POST", "/pooling", {"model": "tiny", "input": ids})
    assert status == 200
    assert body.keys() == {"id", "object", "created", "model", "data", "usage"}
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert body["id"].startswith("pool-")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == len(ids)
    (entry,) = body["data"]
    assert (entry["index"], entry["object"]) == (0, "pooling")
    np.testing.assert_allclose(np.asarray(entry["data"])[:, 0], scores, atol=1e-4)  # one [score] per token
    # The step scores of an exported model are the scores of the last tokens of the steps.
    steps = server.ask("POST", "/score_steps", steps_body(problem, codes[:1]))[2]["results"][0]["steps"]
    np.testing.assert_allclose([entry["data"][i][0] for i in reading.ends], [s["score"] for s in steps], atol=1e-4)

    packed = server.ask("POST", "/pooling", {"input": [ids, ids[:50]], "encoding_format": "base64"})[2]["data"]
    assert [e["index"] for e in packed] == [0, 1]
    floats = [np.frombuffer(base64.b64decode(e["data"]), "<f4") for e in packed]
    np.testing.assert_allclose(floats[0], scores, atol=1e-4)
    np.testing.assert_allclose(floats[1], scores[:50], atol=1e-4)
    raw = server.ask("POST", "/pooling", {"input": ids, "task": "classify", "use_activation": False})[2]
    np.testing.assert_allclose(raw["data"][0]["data"], every[-1:], atol=1e-4)
    text = server.ask("POST", "/pooling", {"input": "x = 1\n", "truncate_prompt_tokens": 2})[2]
    assert len(text["data"][0]["data"]) == text["usage"]["prompt_tokens"] == 2

    messages = [{"role": "user", "content": "Add two numbers."}, {"role": "assistant", "content": codes[0]}]
    chat = server.ask("POST", "/pooling", {"messages": messages})[2]
    assert len(chat["data"][0]["data"]) == len(split_steps(codes[0]))  # one [score] per step
    body = {"messages": messages, "truncate_prompt_tokens": chat["usage"]["prompt_tokens"] - 1}
    shorter = server.ask("POST", "/pooling", body)[2]  # without the first token of the prompt
    assert shorter["usage"]["prompt_tokens"] == body["truncate_prompt_tokens"]
    assert len(shorter["data"][0]["data"]) == len(chat["data"][0]["data"])
    status, _, answer = server.ask("POST", "/pooling", body | {"truncate_prompt_tokens": 1})
    assert (status, "the program alone is longer than 1 tokens" in answer["error"]["message"]) == (413, True)


@pytest.mark.slow
def test_errors_are_json_that_say_why(server, written):
    problem, codes = written[0]
    good = steps_body(problem, codes[:1])
    long = steps_body(problem, ["x = 1\n" * 3_333])
    cases = [
        ("POST", "/pooling", b"{nope", 400, "not valid JSON"),
        ("POST", "/pooling", b"[1]", 400, "must be a JSON object"),
        ("POST", "/pooling", b"[" * 100_000, 400, "not valid JSON"),
        ("POST", "/pooling", {"input": "x", "model": "gpt"}, 404, "the model 'gpt' does not exist; this is 'tiny'"),
        ("POST", "/pooling", {}, 400, "either input or messages"),
        ("POST", "/pooling", {"input": ""}, 400, "input 0: empty"),
        ("POST", "/pooling", {"input": [[1, 10**9]]}, 400, "token ids must be from 0 to 511"),
        ("POST", "/pooling", {"input": ["a", 3]}, 400, "input 1: must be a string or a list of token ids"),
        ("POST", "/pooling", {"input": "\ud800"}, 400, "lone surrogate"),
        ("POST", "/pooling", {"input": "a", "task": "embed"}, 400, "task: 'embed' is not served"),
        ("POST", "/pooling", {"messages": [{"role": "user", "content": "x"}] * 2}, 400, "must be the assistant's"),
        ("POST", "/pooling", {"input": [1] * 1025}, 413, "1025 tokens exceed the model's context of 1024"),
        ("POST", "/pooling", {"input": [[1] * 1000] * 4}, 413, "4000 tokens in one request; at most 3000"),
        ("POST", "/score_steps", long, 413, "codes[0]: longer than the model's context of 1024 tokens"),
        ("POST", "/pooling", {"input": "x" * 24_001}, 413, "24001 characters in one request; at most 24000"),
        ("POST", "/score_steps", {**good, "codes": [""]}, 400, "codes[0]: empty program"),
        ("POST", "/score_steps", {**good, "codes": ["x\0"]}, 400, "codes[0]: contains a NUL character"),
        ("POST", "/score_steps", {"code": "x = 1"}, 400, "problem: a statement, or an object with statement"),
        ("POST", "/score_steps", b"x" * 400_001, 413, "larger than 400000 bytes"),
        ("GET", "/nowhere", None, 404, "GET /nowhere: Not Found"),
        ("GET", "/pooling", None, 405, "Method Not Allowed"),
    ]
    for method, path, body, status, message in cases:
        got, _, answer = server.ask(method, path, body)
        assert (got, answer["error"]["code"]) == (status, status), answer
        assert message in answer["error"]["message"], answer
    assert server.ask("GET", "/health")[2]["status"] == "ok"
    assert server.ask("GET", "/v1/models")[2]["data"][0] | {"created": 0} == {
        "id": "tiny", "object": "model", "created": 0, "owned_by": "dreamprm", "max_model_len": 1024,
    }  # fmt: skip


@pytest.mark.slow
def test_sigterm_answers_what_was_taken_then_ends(server, written):
    """Must run last in this file, because it stops the module's server."""
    problem, codes = written[1]
    before = server.ask("GET", "/health")[2]["requests"]
    answers = []
    clients = [
        threading.Thread(target=lambda: answers.append(server.ask("POST", "/score_steps", steps_body(problem, codes))))
        for _ in range(4)
    ]
    for client in clients:
        client.start()
    while server.ask("GET", "/health")[2]["requests"] < before + len(clients):
        time.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join()
    assert [status for status, _, _ in answers] == [200] * 4
    out, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert out.strip() == "stopped"
    assert "Traceback" not in err
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/health")


def test_a_full_queue_is_refused_and_errors_reach_their_request():
    """While the scorer is busy, requests are collected into one batch; requests beyond the queue's size are refused."""
    go, passes = threading.Event(), []

    class Slow:
        batch_tokens = 20

        def logits(self, readings):
            passes.append(len(readings))
            assert go.wait(30)
            if any(len(reading.tokens) == 3 for reading in readings):
                raise MemoryError("too much")
            return [reading.tokens * 1.0 for reading in readings]

    def reading(count):
        return Reading(np.full(count, count), np.arange(count))

    with Batcher(Slow(), queue_tokens=30) as batcher:
        first = batcher.submit([reading(5)])
        while not passes:
            time.sleep(0.001)
        later = [batcher.submit([reading(5), reading(5)]) for _ in range(3)]
        assert batcher.waiting_tokens == 30
        with pytest.raises(Busy, match="30 tokens are waiting already; the queue holds 30"):
            batcher.submit([reading(1)])
        go.set()
        assert first.result(30)[0].tolist() == [5] * 5
        assert [len(future.result(30)) for future in later] == [2, 2, 2]
        assert passes == [1, 4, 2]  # as many as fit into a batch
        with pytest.raises(MemoryError):
            batcher.submit([reading(3)]).result(30)
        assert len(batcher.submit([reading(2)]).result(30)) == 1
    with pytest.raises(Busy, match="shutting down"):
        batcher.submit([reading(1)])


def test_scores_that_are_not_finite_are_the_servers_error(prm, written):
    from aiohttp.test_utils import TestClient, TestServer

    from dreamprm_jax.scoring.serve import Limits, make_app

    poisoned = Scorer(prm.model, prm.mesh, jax.tree.map(lambda leaf: leaf * np.nan, prm.params), 1024, 4096)
    problem, codes = written[0]

    async def ask(app):
        async with TestClient(TestServer(app)) as client:
            bodies = (("/score_steps", steps_body(problem, codes[:1])), ("/pooling", {"input": "x = 1"}))
            answers = [await client.post(path, json=body) for path, body in bodies]
            return [(answer.status, await answer.json()) for answer in answers]

    with Batcher(poisoned, queue_tokens=1 << 16) as batcher:
        for status, body in asyncio.run(ask(make_app(prm, batcher, Limits(1 << 20, 1 << 16)))):
            assert status == 500
            assert "not finite" in body["error"]["message"]
