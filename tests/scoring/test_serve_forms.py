"""The server's answers to every form of request, from a server in a thread of this process."""

import asyncio
import contextlib
import html
import io
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import requests

from dreamprm_jax.scoring import serve
from dreamprm_jax.scoring.batcher import Batcher
from dreamprm_jax.scoring.scorer import Reading
from dreamprm_jax.scoring.serve import Limits, make_app
from dreamprm_jax.selection.reward_models import DEFAULT_AGGREGATOR

web = pytest.importorskip("aiohttp.web", reason="needs the extra 'serve'")
DOCS = Path(__file__).parents[2] / "docs" / "scoring.md"
KEY = {"Authorization": "Bearer secret"}
PROGRAM = "def f():\n    return 1\n\n\ndef main():\n    print(f())\n"


@contextlib.contextmanager
def serving(prm, scorer, **limits):
    """Starts a server and gives its address."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    address, runners = [], []

    async def start(batcher):
        runner = web.AppRunner(make_app(prm, batcher, Limits(1 << 20, 1 << 14, **limits)))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()

    def run(batcher):
        loop.run_until_complete(start(batcher))
        loop.run_forever()

    with Batcher(scorer, queue_tokens=1 << 16) as batcher:
        thread = threading.Thread(target=run, args=(batcher,))
        thread.start()
        assert started.wait(30)
        yield address[0]
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def server(prm, scorer):
    with serving(prm, scorer, api_key="secret") as address:
        yield address


def post(server, path, body, headers=KEY):
    return requests.post(server + path, json=body, headers=headers, timeout=60)


def steps_of(server, code=PROGRAM, **more):
    body = {"problem": {"statement": "Add."}, "code": code, **more}
    return post(server, "/score_steps", body).json()["results"][0]


def test_a_program_has_a_total_score(server):
    scores = [step["score"] for step in steps_of(server)["steps"]]
    assert len(scores) == 2
    for name, total in (
        ("last", scores[-1]),
        ("min", min(scores)),
        ("mean", np.mean(scores)),
        ("product", np.prod(scores)),
    ):
        assert steps_of(server, aggregator=name)["score"] == pytest.approx(total, abs=1e-6)
    assert steps_of(server) == steps_of(server, aggregator=DEFAULT_AGGREGATOR)
    assert steps_of(server)["score"] != pytest.approx(scores[-1], abs=1e-3)
    answer = post(server, "/score_steps", {"problem": {"statement": "s"}, "code": "x", "aggregator": "best"})
    assert answer.status_code == 400
    assert "aggregator: 'best'" in answer.json()["error"]["message"]


def test_a_problem_may_be_its_statement_alone(server):
    assert steps_of(server, problem="Add.") == steps_of(server)
    for problem in (3, None, ["Add."], {}):
        answer = post(server, "/score_steps", {"problem": problem, "code": "x"})
        assert answer.status_code == 400
        assert "problem: a statement, or an object with statement" in answer.json()["error"]["message"]


def test_a_body_that_cannot_be_decoded_is_the_clients_fault(server):
    answer = requests.post(server + "/score_steps", data=b"abc", headers=KEY | {"Content-Encoding": "gzip"}, timeout=60)
    assert (answer.status_code, "the body cannot be read" in answer.text) == (400, True)


def test_score_takes_pairs_in_vllms_four_spellings(server):
    chat = [{"role": "user", "content": "Add.\n\n"}, {"role": "assistant", "content": PROGRAM}]
    wanted = [row[0] for row in post(server, "/pooling", {"messages": chat}).json()["data"][0]["data"]]
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
        body = post(server, "/v1/score", {first: "Add.\n\n", second: [PROGRAM, "x = 1\n"]}).json()
        assert body.keys() == {"id", "object", "created", "model", "data", "usage"}
        one, other = body["data"]
        assert (one["index"], one["object"], other["index"]) == (0, "score", 1)
        logits = np.log(wanted) - np.log1p(-np.array(wanted))
        assert one["score"] == pytest.approx(1 / (1 + np.exp(-logits.sum())), abs=1e-6)  # sum_log_odds
        np.testing.assert_allclose(one["step_scores"], wanted, atol=1e-6)
    worst = post(server, "/score", {"text_1": "Add.\n\n", "text_2": PROGRAM, "aggregator": "min"}).json()["data"][0]
    assert worst["score"] == pytest.approx(min(wanted), abs=1e-6)
    assert len(post(server, "/score", {"text_1": ["a", "b"], "text_2": ["x", "y"]}).json()["data"]) == 2
    for body, message in (
        ({"text_1": "a"}, "text_1 and text_2 belong here"),
        ({"text_1": ["a", "b"], "text_2": ["x", "y", "z"]}, "2 texts for 3 of text_2"),
        ({"text_1": "a", "text_2": []}, "text_2: text or a list"),
        ({"text_1": "a", "text_2": [3]}, "must have a role and a content"),
    ):
        answer = post(server, "/score", body)
        assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True), answer.json()


def test_classify_gives_the_last_score(server, prm, scorer):
    tokens = np.asarray(prm.tokenizer.encode("x = 1\n").ids, np.int32)
    [logits] = scorer.logits([Reading(tokens, np.asarray([len(tokens) - 1]))])
    body = post(server, "/classify", {"model": prm.name, "input": ["x = 1\n", tokens.tolist()]}).json()
    assert body["id"].startswith("classify-")
    for entry in body["data"]:
        assert entry.keys() == {"index", "label", "probs", "num_classes"}
        assert entry["probs"] == pytest.approx([1 / (1 + np.exp(-logits[0]))], abs=1e-5)
    raw = post(server, "/classify", {"input": "x = 1\n", "use_activation": False}).json()["data"][0]["probs"]
    assert raw == pytest.approx(list(logits), abs=1e-5)


@pytest.mark.parametrize("endianness", ["native", "little", "big"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_come_with_their_places(dtype, endianness, server):
    body = {"input": ["x = 1\n", "print(2)\n"], "embed_dtype": dtype, "endianness": endianness}
    wanted = [np.asarray(entry["data"]) for entry in post(server, "/pooling", body).json()["data"]]
    answer = post(server, "/pooling", body | {"encoding_format": "bytes"})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    places = json.loads(answer.headers["metadata"])["data"]
    for place, values in zip(places, wanted, strict=True):
        data = np.frombuffer(answer.content[place["start"] : place["end"]], "u4" if dtype == "float32" else "u2")
        data = (data.byteswap() if endianness == "big" else data).view(dtype)
        np.testing.assert_allclose(data.astype(float).reshape(place["shape"]), values, rtol=1e-2, atol=1e-3)
    alone = post(server, "/pooling", body | {"encoding_format": "bytes_only"})
    assert alone.content == answer.content
    assert "metadata" not in alone.headers


def test_without_the_key_there_is_the_page_and_the_health_alone(server):
    assert requests.get(server + "/health", timeout=60).status_code == 200
    page = requests.get(server + "/", timeout=60)
    assert "text/html" in page.headers["Content-Type"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret ä".encode("latin-1")}):
        answer = post(server, "/score", {"text_1": "a", "text_2": "b"}, headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "AuthenticationError")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert requests.get(server + "/metrics", headers=headers, timeout=60).status_code == 401


def test_metrics_count_requests_inputs_and_tokens(prm, scorer):
    from prometheus_client.parser import text_string_to_metric_families

    with serving(prm, scorer) as server:
        tokens = post(server, "/pooling", {"input": ["x = 1\n", "y = 2\n"]}).json()["usage"]["total_tokens"]
        assert post(server, "/pooling", {}).status_code == 400
        assert requests.get(server + "/nowhere", timeout=60).status_code == 404
        text = requests.get(server + "/metrics", timeout=60).text
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["dreamprm_requests_total", "/pooling", "200"] == 1
    assert values["dreamprm_requests_total", "/pooling", "400"] == 1
    assert values["dreamprm_requests_total", "other", "404"] == 1
    assert values["dreamprm_scored_tokens_total",] == tokens
    assert values["dreamprm_scored_inputs_total",] == 2
    assert values["dreamprm_batches",] == 1
    assert values["dreamprm_request_seconds_count", "/pooling"] == 2


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_scores_a_pasted_program_in_a_browser(width, prm, scorer, tmp_path, monkeypatch):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    program = "# \U0001f600\ndef f():\n    return '<b>x</b>'\n\n\ndef main():\n    print(f())\n"
    script = f"""<script>addEventListener("load", () => {{
      document.getElementById("statement").value = "Add.";
      document.getElementById("code").value = {json.dumps(program)};
      document.getElementById("form").requestSubmit();
      setTimeout(() => {{ document.title = document.documentElement.scrollWidth - innerWidth; }}, 3000);
    }});</script></html>"""
    page = tmp_path / "page.html"
    page.write_text(serve.PAGE.read_text("utf-8").replace("</html>", script), "utf-8")
    monkeypatch.setattr(serve, "PAGE", page)
    with serving(prm, scorer) as server:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--window-size={width},900"]
        command += ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", server + "/"]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        scores = [step["score"] for step in steps_of(server, program)["steps"]]
    shown = re.findall(r'<div class="step" title="(\w*)".*?<b>([\d.]+)</b><pre>(.*?)</pre>', dom, re.DOTALL)
    assert [name for name, _, _ in shown] == ["f", "main"]
    assert [float(score) for _, score, _ in shown] == pytest.approx(scores, abs=1e-3)
    assert html.unescape("".join(text for _, _, text in shown)).split() == program.split()
    assert int(re.search(r"<title>(-?\d+)</title>", dom)[1]) <= 0  # no element is wider than the window


@pytest.mark.parametrize("client", ["requests", "openai"])
def test_the_clients_of_the_documentation(client, server):
    pytest.importorskip(client)
    [source] = re.findall(rf"```python file=score_with_{client}\.py\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source.replace("http://localhost:8000", server), "client", "exec"), {})
    lines = out.getvalue().splitlines()
    if client == "openai":
        assert lines in (["0"], ["1"])
    else:
        assert re.fullmatch(r"0\.\d+ 'def add\(a, b\):.*'", lines[0])
        assert re.fullmatch(r"total 0\.\d+", lines[-1])
