"""Differences between servers with OpenAI's API: one entry per kind, and an HTTP server that behaves like an entry.

``source`` names the public report from which the wording of an error was taken; without it, the wording is assumed.
None of these servers has been run.
"""

# ruff: noqa: E501  # wording as it was recorded

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
FENCE = "```python\n"
PROGRAM = "def main():\n    print(2 * int(input()))\n\nmain()"


@dataclass(frozen=True)
class Quirk:
    """One kind of server.

    Attributes:
      refuses: whether the server refuses a request.
      status: HTTP status of the refusal.
      error: body of the refusal, JSON or text.
      chat: whether the policy sends chat requests.
      choice: changes to every choice, except in the small requests at the start.
      once: only the first request for the problem is refused, or answered by ``reply``.
      reply: builds another reply from the request and its choices: status, headers and body.
      path: replaces /v1 at the end of the server's address.
      settings: settings of the policy in addition to the defaults.
      not_sent: parameters that the rows must record as not sent.
      fault: start of the fault of the answers; "" for real answers.
      code: text that the code of the answers must contain.
      source: the issue or pull request from which the text was taken.
      raises: text of the DataError or PolicyError, if the server cannot be used.
    """

    refuses: Callable[[Body], bool] = lambda body: False
    status: int = 400
    error: Any = ""
    chat: bool = False
    choice: dict[str, Any] | None = None
    once: bool = False
    reply: Callable[[Body, list[Body]], tuple[int, dict[str, str], bytes]] | None = None
    path: str = "/v1"
    settings: dict[str, Any] = field(default_factory=dict)
    not_sent: tuple[str, ...] = ()
    fault: str = ""
    code: str = "print("
    raises: str = ""
    source: str = ""


def has(*names: str) -> Callable[[Body], bool]:
    return lambda body: any(name in body for name in names)


def openai(message: str, param: str | None = None, code: str | None = None) -> Body:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def forbidden(name: str) -> list[Body]:
    return [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}]


def ours(body: Body) -> bool:
    """Whether the request is about the test's problem, and is not one of the small requests at the start."""
    return "Double" in json.dumps(body)


def whole(value: Any, status: int = 200, **headers: str) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """A reply that is the same for every request."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda body, choices: (status, {name.replace("_", "-"): text for name, text in headers.items()}, data)


def events(body: Body, choices: list[Body], end: str = "data: [DONE]\n\n") -> tuple[int, dict[str, str], bytes]:
    """The choices as a stream of events, with a few characters per event."""
    parts = []
    for choice in choices:
        text = choice["message"]["content"] if "messages" in body else choice["text"]
        for start in range(0, len(text), 7):
            said = (
                {"delta": {"content": text[start : start + 7]}}
                if "messages" in body
                else {"text": text[start : start + 7]}
            )
            parts.append({"index": choice["index"], "finish_reason": None, **said})
        parts.append({"index": choice["index"], "finish_reason": "stop", "text": "", "delta": {}})
    lines = [json.dumps({"choices": [part]}) for part in parts if end or part["finish_reason"] is None]
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    text = ": comment\n\n" + "".join(f"data: {line}\n\n" for line in [*lines, usage]) + end
    return 200, {"Content-Type": "text/event-stream"}, text.encode()


def packed(body: Body, choices: list[Body]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps({"choices": choices}).encode())


def cut_short(body: Body, choices: list[Body]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Length": "9999"}, json.dumps({"choices": choices}).encode()


def unlabeled(body: Body, choices: list[Body]) -> tuple[int, dict[str, str], bytes]:
    rows = [
        {name: value for name, value in choice.items() if name not in ("index", "finish_reason")} for choice in choices
    ]
    return 200, {}, json.dumps({"choices": rows, "usage": None}).encode()


PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def long(body: Body) -> bool:
    return body.get("max_tokens", 0) > 300


QUIRKS: dict[str, Quirk] = {
    # parameters
    "o4-mini: temperature at 1 alone": Quirk(
        lambda b: b.get("temperature", 1) != 1, 400,
        openai("Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is "
               "supported.", "temperature", "unsupported_value"), chat=True, not_sent=("temperature",), source="OpenHands/OpenHands#4131"),
    "o4-mini: max_completion_tokens": Quirk(
        has("max_tokens"), 400,
        openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
               "instead.", "max_tokens", "unsupported_parameter"), chat=True, not_sent=("max_tokens",),
    ),
    "o1-mini: no system role": Quirk(
        lambda b: any(m["role"] == "system" for m in b.get("messages", [])), 400,
        openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role"),
        chat=True, not_sent=("system role",),
    ),
    "OpenAI: logprobs, 403": Quirk(
        has("logprobs"), 403, openai("You are not allowed to request logprobs from this model."), chat=True,
        settings={"logprobs": True}, raises=r"policy\.logprobs: .* gives no log-probabilities",
    ),
    "OpenAI: a least limit": Quirk(
        lambda b: b["max_tokens"] < 1024, 400,
        openai("Invalid 'max_tokens': integer below minimum value. Expected a value >= 1024, but got 512 instead.",
               "max_tokens", "integer_below_min_value"), chat=True, settings={"max_tokens": 512},
    ),
    "OpenAI: a largest limit": Quirk(
        lambda b: b["max_tokens"] > 1000, 400,
        openai("max_tokens is too large: 2048. This model supports at most 1000 completion tokens, whereas you provided "
               "2048.", "max_tokens", "invalid_value"),
    ),
    "DashScope: range of the limit": Quirk(
        lambda b: b["max_tokens"] > 1500, 400, openai("<400> InternalError.Algo.InvalidParameter: Range of max_tokens "
                                                      "should be [1, 1500]", None, "invalid_parameter_error"), chat=True, source="open-webui/open-webui#10507"),
    "vLLM: extra field, Python in a message": Quirk(
        has("seed"), 400, {"object": "error", "type": "BadRequestError", "param": None, "code": 400, "message":
                           "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not "
                           "permitted', 'input': 3}]"}, not_sent=("seed",),
    ),
    "Mistral: 422 with loc": Quirk(
        has("seed"), 422, {"object": "Error", "detail": forbidden("seed"), "message": forbidden("seed"), "code": 3001},
        chat=True, not_sent=("seed",), source="partITech/php-mistral#76"),
    "FastAPI: detail alone": Quirk(has("top_p"), 422, {"detail": forbidden("top_p")}, not_sent=("top_p",)),
    "Gemini: a list, unknown name": Quirk(
        has("seed"), 400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Invalid JSON payload "
                            "received. Unknown name \"seed\": Cannot find field."}}], chat=True, not_sent=("seed",), source="Vali-98/ChatterUI#227"),
    "TGI: top_p below 1": Quirk(
        lambda b: b.get("top_p") == 1, 422,
        {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"},
        not_sent=("top_p",),
    ),
    "DeepSeek: n = 1 alone": Quirk(
        lambda b: b.get("n", 1) > 1, 400, openai("Invalid n value (currently only n = 1 is supported)"), chat=True,
    ),
    "llama.cpp: one choice": Quirk(
        lambda b: b.get("n", 1) > 1, 500,
        {"error": {"code": 500, "message": "Only one completion choice is allowed", "type": "invalid_request_error"}},
    ),
    "Anthropic behind LiteLLM: two parameters exclude each other": Quirk(
        lambda b: "temperature" in b and "top_p" in b, 400,
        openai('litellm.BadRequestError: AnthropicException - {"error":{"message":"{\\"type\\":\\"error\\",\\"error\\":'
               '{\\"message\\":\\"`temperature` and `top_p` cannot both be specified for this model.\\"}}"}}'),
        chat=True, not_sent=("top_p",), source="BerriAI/litellm#15097"),
    "LiteLLM: 500 for a bad request": Quirk(
        has("seed"), 500, openai("litellm.UnsupportedParamsError: xai does not support parameters: ['seed']"),
        chat=True, not_sent=("seed",),
    ),
    "no reason given": Quirk(has("seed"), 400, {"error": "Bad Request"}, not_sent=("seed",)),
    "no reason given, for two": Quirk(has("seed", "top_p"), 422, "", not_sent=("seed", "top_p")),
    # context
    "vLLM: context": Quirk(long, 400, {"object": "error", "code": 400, "type": "BadRequestError", "message":
        "This model's maximum context length is 512 tokens. However, you requested 2100 tokens (52 in the messages, 2048 "
        "in the completion)."}),
    "TGI: context, 422": Quirk(long, 422, {"error_type": "validation", "error": "Input validation error: `inputs` tokens "
        "+ `max_new_tokens` must be <= 512. Given: 100 `inputs` tokens and 2048 `max_new_tokens`"}, source="huggingface/text-generation-inference#628"),
    "Mistral: context": Quirk(ours, 400, {"object": "error", "code": 3051, "message": "Prompt contains 33000 tokens and 0 "
        "draft tokens, too large for model with 32768 maximum context length"}, fault="context overflow"),
    "llama.cpp: context": Quirk(ours, 400, {"error": {"code": 400, "type": "exceed_context_size_error", "message":
        "the request exceeds the available context size. try increasing the context size", "n_ctx": 256}},
        fault="context overflow", source="ggml-org/llama.cpp#15780"),
    "DashScope: context": Quirk(ours, 400, openai("Range of input length should be [1, 30720]"), fault="context overflow", source="QwenLM/qwen-code#98"),
    "Anthropic: context": Quirk(ours, 400, openai("prompt is too long: 210000 tokens > 200000 maximum"), chat=True,
                                fault="context overflow"),
    "SGLang: context": Quirk(ours, 400, {"object": "error", "message": "The input (5000 tokens) is longer than the "
                             "model's context length (4096 tokens)."}, fault="context overflow"),
    "LM Studio: context": Quirk(ours, 400, {"error": "Trying to keep the first 5000 tokens when context the overflows. "
                                "However, the model is loaded with context length of only 4096 tokens"},
                                fault="context overflow", source="lmstudio-ai/lmstudio-bug-tracker#546"),
    "llama.cpp: context, 500": Quirk(ours, 500, {"error": {"code": 500, "message": "Context size has been exceeded.",
        "type": "server_error"}}, fault="context overflow", source="ggml-org/llama.cpp#19774"),
    "llama.cpp: context under status 200": Quirk(reply=lambda b, c: whole({"error": {"code": 400, "message": "the request "
        "exceeds the available context size. try increasing the context size or enable context shift", "type":
        "exceed_context_size_error", "n_prompt_tokens": 14429, "n_ctx": 8192}} if ours(b) else {"choices": c})(b, c),
        fault="context overflow", source="oobabooga/textgen#7257"),
    "DeepSeek: range of the limit": Quirk(lambda b: b["max_tokens"] > 1500, 400, openai("Invalid max_tokens value, the valid "
        "range of max_tokens is [1, 1500]", None, "invalid_request_error"), chat=True, source="deepseek-ai/DeepSeek-V3#69"),
    "Mistral: 422, detail in the message": Quirk(has("n"), 422, {"object": "error", "message": {"detail": forbidden("n")},
        "type": "invalid_request_error", "param": None, "code": None}, chat=True, not_sent=("n",),
        source="crewAIInc/crewAI#60"),
    "DashScope: an error as an event": Quirk(once=True, reply=lambda b, c: (200, {"Content-Type": "text/event-stream"},
        b'event:error\ndata:{"code":"InternalError","message":"<500> InternalError.Algo: try again","request_id":"x"}\n\n'),
        source="musistudio/claude-code-router#1327"),
    "GitHub Models: context, 413": Quirk(ours, 413, openai("Request body too large for o1-mini model. Max size: 4000 tokens.",
        None, "tokens_limit_reached"), chat=True, fault="context overflow"),
    "vLLM: a negative limit": Quirk(ours, 400, openai("max_tokens must be at least 1, got -20."), fault="context overflow"),
    "vLLM: the engine is dead, once": Quirk(ours, 400, openai("EngineDeadError: the engine is dead"), once=True),
    "a template without a system role, 500": Quirk(lambda b: any(m["role"] == "system" for m in b.get("messages", [])), 500,
        {"error": {"code": 500, "message": "Jinja Exception: System role not supported", "type": "server_error"}}, chat=True,
        not_sent=("system role",)),
    # permanent refusals
    "Azure: a filter of prompts": Quirk(ours, 400, openai("The response was filtered due to the prompt triggering Azure "
        "OpenAI's content management policy.", "prompt", "content_filter"), chat=True, fault="refused: HTTP 400"),
    "DashScope: inspection": Quirk(ours, 400, openai("Input data may contain inappropriate content.", None,
        "data_inspection_failed"), chat=True, fault="refused: HTTP 400"),
    "OpenRouter: moderation, 403": Quirk(ours, 403, openai("Your chosen model requires moderation and your input was "
        "flagged"), chat=True, fault="refused: HTTP 403"),
    "one problem, no reason": Quirk(ours, 400, {"error": "Bad Request"}, fault="refused: HTTP 400"),
    # answers
    "content null": Quirk(chat=True, choice={"message": {"role": "assistant", "content": None}}, code=""),
    "a refusal": Quirk(chat=True, choice={"message": {"content": None, "refusal": "I can't help with that."},
                                          "finish_reason": None}, code=""),
    "filtered, nothing left": Quirk(chat=True, choice={"message": {"content": None}, "finish_reason": "content_filter"},
                                    code=""),
    "filtered in the middle": Quirk(choice={"text": "def main():", "finish_reason": "content_filter"},
                                    fault="cut off (content_filter)"),
    "SGLang: abort": Quirk(choice={"text": "def main():", "finish_reason": "abort"}, fault="cut off (abort)"),
    "DeepSeek: out of resources": Quirk(chat=True, choice={"message": {"content": "```python\ndef"}, "finish_reason":
                                        "insufficient_system_resource"}, fault="cut off (insufficient_system_resource)"),
    "Mistral: content as parts": Quirk(chat=True, choice={"message": {"content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": f"{FENCE}{PROGRAM}\n```"}]}}),
    "Gemini: no choices": Quirk(chat=True, choice={}, settings={"max_retries": 0}, fault="refused: NoChoices"),
    "output_text parts": Quirk(chat=True, choice={"message": {"content": [
        {"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": f"{FENCE}{PROGRAM}\n```"}]}}),
    "no finish reason": Quirk(choice={"finish_reason": None}),
    "neither index nor finish reason nor usage": Quirk(reply=unlabeled),
    "text null": Quirk(choice={"text": None, "finish_reason": "stop"}, code=""),
    "tool calls": Quirk(chat=True, choice={"message": {"content": None, "tool_calls": [{"id": "1", "type": "function",
        "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}, code=""),
    "reasoning alone, then the limit": Quirk(chat=True, choice={"message": {"content": "", "reasoning_content": "Let me"},
                                             "finish_reason": "length"}, code=""),
    "reasoning alone": Quirk(chat=True, choice={"message": {"content": None, "reasoning": "Let me"}}, code=""),
    "logprobs null": Quirk(choice={"logprobs": None}, settings={"logprobs": True},
                           raises=r"policy\.logprobs: .* gives no log-probabilities"),
    # transport
    "DashScope: streams alone": Quirk(lambda b: not b.get("stream"), 400, openai("This model only support stream mode, please "
        "enable the stream parameter to access the model. ", None, "invalid_parameter_error"), chat=True, reply=events, source="FoundationAgents/OpenManus#330"),
    "vLLM behind a proxy that streams": Quirk(reply=events),
    "a stream that breaks off": Quirk(reply=lambda b, c: events(b, c, "") if ours(b) else events(b, c),
                                      fault="cut off (unfinished)"),
    "gzip": Quirk(reply=packed),
    "reset in the middle of a body": Quirk(once=True, reply=cut_short),
    "an empty body": Quirk(once=True, reply=whole(b"")),
    "HTML for a gateway's error": Quirk(ours, 502, PAGE.decode(), once=True),
    "a queue that is full": Quirk(ours, 503, {"error": {"message": "The server is overloaded: queue is full"}}, once=True),
    "TGI: overloaded, 429": Quirk(ours, 429, {"error": "Model is overloaded", "error_type": "overloaded"}, once=True),
    "429, wait until a date": Quirk(once=True, reply=whole({"error": {"message": "Rate limit reached"}}, 429,
                                                           Retry_After="Fri, 27 Nov 2020 08:00:00 GMT")),
    "Gemini: 429 for a minute's quota": Quirk(ours, 429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "You exceeded your current quota, please check your plan and billing details. Please retry in 0.1s."}}], chat=True,
        once=True),
    "OpenRouter: an error under status 200": Quirk(once=True, reply=whole(
        {"error": {"code": 502, "message": "Provider returned error"}, "user_id": "u"})),
    "an error under status 200, of a parameter": Quirk(has("seed"), 200, openai("seed: unsupported parameter", "seed") | {
        "object": "error"}, not_sent=("seed",)),
    "FastChat: object error under status 200": Quirk(has("seed"), 200, {"object": "error", "code": 40001, "message":
        "seed is not supported"}, not_sent=("seed",)),
    "308 to another path": Quirk(path="/moved/v1"),
    "a slash at the address's end": Quirk(path="/v1/"),
    # servers that cannot be used, with the advice
    "the address without /v1": Quirk(path="", raises=r"most servers' address ends in /v1: try policy\.base_url=http\S+/v1"),
    "a web interface": Quirk(path="/web", raises=r"answered with a web page \(502 Bad Gateway nginx\); .* ends in /v1"),
    "301, which turns a POST into a GET": Quirk(path="/old/v1", raises=r"it redirects to http://\S+/v1/completions: set policy"),
    "vLLM: the model, with those that it serves": Quirk(lambda b: True, 404, {"object": "error", "type": "NotFoundError",
        "code": 404, "message": "The model `m` does not exist."}, path="/models/v1", raises="it serves coder-3b, coder-7b"),
    "OpenRouter: no valid model": Quirk(lambda b: True, 400, openai("m is not a valid model ID"), chat=True,
                                        raises="no such model"),
    "LM Studio: no model loaded": Quirk(lambda b: True, 404, openai("No models loaded. Please load a model in the developer "
        "page or use the `lms load` command.", "model", "model_not_found"), chat=True, raises="no such model"),
    "OpenAI: the region, 403": Quirk(lambda b: True, 403, openai("Country, region, or territory not supported", None,
        "unsupported_country_region_territory"), chat=True, raises="region, or territory not supported"),
    "LiteLLM: the key, 401": Quirk(lambda b: True, 401, {"error": {"message": "Authentication Error, Invalid proxy server token "
        "passed", "type": "auth_error", "param": "None", "code": "401"}}, raises="the key was refused"),
    "a chat in place of a continuation": Quirk(choice={"text": "Sure! Here is the code:\n```python\nprint(1)\n```"},
                                               settings={"model": "wraps"}, raises="set config.policy.continuation='chat'"),
    "Gemini: the key, 400": Quirk(lambda b: True, 400, [{"error": {"code": 400, "message": "API key not valid. Please "
        "pass a valid API key.", "status": "INVALID_ARGUMENT"}}], chat=True, raises="the key or the account was refused"),
    "DeepSeek: the account, 402": Quirk(lambda b: True, 402, openai("Insufficient Balance"), raises="cannot pay"),
    "Ollama: the model": Quirk(lambda b: True, 404, openai('model "x" not found, try pulling it first'), chat=True,
                               raises="no such model"),
    "OpenAI: a chat model": Quirk(lambda b: "prompt" in b, 400, openai("This is a chat model and not supported in the "
        "v1/completions endpoint. Did you mean to use v1/chat/completions?"), raises="set policy.continuation='chat'"),
    "a gateway without completions, 501": Quirk(lambda b: "prompt" in b, 501, {"error": "Not Implemented"},
                                                raises="set policy.continuation='chat'"),
    "always 400": Quirk(lambda b: True, 400, {"error": "Bad Request"}, raises="cannot be used: .*HTTP 400"),
}  # fmt: skip


@contextmanager
def serve(quirk: Quirk) -> Iterator[str]:
    """Runs a server with this behavior during the block. Yields its base address."""

    spent: list[Body] = []  # requests to which ``quirk.once`` has been applied

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/models/v1/models":
                self.send(200, {"object": "list", "data": [{"id": name} for name in ("coder-3b", "coder-7b")]})
            else:
                self.send(405, {"detail": "Method Not Allowed"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.startswith(("/moved/", "/old/")):
                to = "/" + self.path.split("/", 2)[2]
                self.send(308 if self.path.startswith("/moved/") else 301, "", {"Location": to})
                return
            if self.path.startswith("/web/"):
                self.send(200, PAGE.decode(), {"Content-Type": "text/html"})
                return
            if "/v1/" not in self.path:
                self.send(404, {"detail": "Not Found"})
                return
            odd = not quirk.once or (ours(body) and not spent)
            if odd and ours(body):
                spent.append(body)
            if odd and quirk.refuses(body):
                self.send(quirk.status, quirk.error)
                return
            changed = quirk.choice is not None and (ours(body) or "model" in quirk.settings)
            if changed and not quirk.choice:
                self.send(200, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
                return
            choices = []
            for index in range(body.get("n", 1)):
                text = f" tale {body.get('seed')} {index}"
                if "prompt" in body and FENCE in body["prompt"]:
                    text = PROGRAM if ours(body) else " + b"
                choice: Body = {"index": index, "finish_reason": "stop", "text": text}
                if "messages" in body:
                    choice["message"] = {"role": "assistant", "content": f"{FENCE}{PROGRAM}\n```"}
                choices.append(choice | (quirk.choice if changed and quirk.choice else {}))
            if odd and quirk.reply:
                status, headers, data = quirk.reply(body, choices)
                self.send(status, data, headers)
                return
            self.send(200, {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

        def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            data = (
                value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
            )
            self.send_response(status)
            sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
            for name, text in sent.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = sent["Content-Length"] != str(len(data))

        def log_message(self, *arguments: object) -> None:
            """Suppresses the request log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{quirk.path}"
    finally:
        server.shutdown()
        server.server_close()
