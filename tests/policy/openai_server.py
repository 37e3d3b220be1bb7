"""A small HTTP server with the OpenAI API, which the tests run as a process.

It writes programs for the problem "Double": whole programs, or continuations of the prefix at the end of the prompt.
The name of the model selects a behavior; the part after ":" separates the counts of different tests:

  plain         correct answers
  fail500_K     HTTP 500 for the first K requests, then plain (also fail429_K with Retry-After, loading_K, malformed_K,
                empty_K)
  slow          waits a second before it answers
  hang_K        never answers request number K
  one           one choice, whatever n is
  few           one choice fewer than n
  echo          repeats the prompt in the answer
  repeat        repeats the given part of the answer
  strip         strips the answer
  restart       begins a new answer instead of continuing
  denied        HTTP 401
  cut           stops at the token limit
  surrogate     the answer contains a lone surrogate
  noseed        a different answer every time
  overflow_K    HTTP 400 for a token limit above K: the context is too short
  most_K        HTTP 400 for n above K; the message names n
  line          one answer ends, one continues with a line break, one without
  nochoice      HTTP 400 if n is given; the message names n
  mute          always HTTP 400
  reasoning     HTTP 400 for max_tokens, temperature and top_p; chat requests only
  quota         permanent HTTP 429
  bare          no token counts, no cached tokens, no log-probabilities

``GET /log/MODEL`` returns the bodies of all requests to a model so far.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCE = "```python\n"
MAIN = 'def main():\n    """Read, double, print."""\n    print(double(int(input())))\n'
HELPER = '\ndef double(n):\n    """Twice n."""\n    return 2 * n  # seed {seed}\n'
CALL = "\nmain()\n"
METHOD = '    def helper(self, n):\n        """Twice n."""\n        return 2 * n  # seed {seed}\n'

LOG: dict[str, list[dict[str, Any]]] = defaultdict(list)
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with LOCK:
            self.reply(200, LOG[self.path.removeprefix("/log/")])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = body["model"]
        with LOCK:
            LOG[model].append({"path": self.path, **body})
            number = len(LOG[model])
        behavior, _, count = model.split(":")[0].partition("_")
        if behavior == "overflow":
            if body["max_tokens"] > int(count):
                self.refuse("This model's maximum context length is 512 tokens, you asked for more", None)
            else:
                self.complete(body, "plain")
        elif behavior == "most" and body["n"] > int(count):
            self.refuse(f"Field 'n': must be at most {count}", None)
        elif behavior == "most":
            self.complete(body, "plain")
        elif behavior == "nochoice" and "n" in body:
            self.refuse("unknown field", "n")
        elif behavior == "mute":
            self.refuse("unknown field", None)
        elif behavior == "reasoning" and self.path == "/v1/completions":
            self.reply(404, {"error": {"message": "no such endpoint"}})
        elif behavior == "reasoning" and {"max_tokens", "temperature", "top_p"} & body.keys():
            name = next(name for name in ("max_tokens", "temperature", "top_p") if name in body)
            self.refuse(f"Unsupported parameter: '{name}' is not supported with this model.", name)
        elif behavior == "quota":
            self.reply(429, {"error": {"message": "pay first", "code": "insufficient_quota"}})
        elif behavior == "hang" and number == int(count):
            time.sleep(3600)
        elif behavior == "hang":
            self.complete(body, "plain")
        elif count and number <= int(count):
            self.fail(behavior)
        elif behavior == "denied":
            self.reply(401, {"error": {"message": "bad key"}})
        elif self.path == "/v1/completions":
            self.complete(body, behavior)
        elif self.path == "/v1/chat/completions":
            self.chat(body)
        else:
            self.reply(404, {"error": {"message": "no such endpoint"}})

    def fail(self, behavior: str) -> None:
        if behavior == "fail429":
            self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
        elif behavior == "loading":
            self.reply(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
        elif behavior == "malformed":
            self.send(200, b'{"choices": [{"te', {})
        elif behavior == "empty":
            self.reply(200, {"object": "text_completion"})
        else:
            self.reply(500, {"error": {"message": "out of memory"}})

    def refuse(self, message: str, parameter: str | None) -> None:
        self.reply(400, {"error": {"message": message, "type": "invalid_request_error", "param": parameter}})

    def complete(self, body: dict[str, Any], behavior: str) -> None:
        prompt, seed = body["prompt"], body.get("seed", 0)
        given = prompt.rpartition(FENCE)[2]
        if behavior == "slow":
            time.sleep(1)
        choices = []
        n = body.get("n", 1)
        for index in range({"one": 1, "few": max(n - 1, 1)}.get(behavior, n)):
            if FENCE not in prompt:
                text = f" sailor, number {time.monotonic_ns() if behavior == 'noseed' else seed + index}"
            elif behavior == "line":
                text = ["\n", " + 1\n", "\nx = 1\n"][(seed + index) % 3]
            elif given.endswith("return a"):
                text = " + b"
            elif "class Solution" in given:
                text = METHOD
            elif given:
                text = HELPER + CALL
            else:
                text = MAIN + HELPER + CALL
            text = text.format(seed=seed + index).removesuffix("\n")  # the stop sequence removes the last newline
            reason = "stop"
            if behavior == "echo":
                text = prompt + text
            elif behavior == "repeat":
                text = FENCE + given + text
            elif behavior == "strip":
                text = text.strip()
            elif behavior == "restart" and FENCE in prompt:
                text = f"Sure!\n{FENCE}{MAIN}{HELPER}```"[6:]
            elif behavior == "surrogate":
                text = "# \ud83d\n" + text
            elif behavior == "cut":
                text, reason = text[:30], "length"
            if body.get("echo"):
                text = prompt + text
            logprobs = {"token_logprobs": [-0.5, -1.5]} if body.get("logprobs") and behavior != "bare" else None
            choices.append({"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs})
        self.answer("text_completion", choices, body, counted=behavior != "bare")

    def chat(self, body: dict[str, Any]) -> None:
        text = f"Here it is:\n\n{FENCE}{MAIN}{HELPER.format(seed=body.get('seed', 0))}{CALL}```\n"
        message = {"role": "assistant", "content": text}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(body.get("n", 1))]
        self.answer("chat.completion", choices, body)

    def answer(self, kind: str, choices: list[dict[str, Any]], body: dict[str, Any], counted: bool = True) -> None:
        usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 10 * len(choices)}
        usage["total_tokens"] = sum(usage.values())
        usage["prompt_tokens_details"] = {"cached_tokens": 64}
        reply = {"id": "x", "object": kind, "created": 0, "model": body["model"], "choices": choices}
        if counted:
            reply["usage"] = usage
        self.reply(200, reply)

    def reply(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode("utf-8"), headers or {})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Suppresses the request log."""


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
