"""Serves a reward model over HTTP; docs/scoring.md lists paths, answers and errors.

Concurrent requests are scored in one batch. On SIGTERM the server answers all accepted requests and exits. It needs the
extra 'serve'.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    from aiohttp import web

    from dreamprm_jax.scoring.batcher import Batcher
    from dreamprm_jax.scoring.prm import Prm
    from dreamprm_jax.scoring.scorer import Reading

CHARACTERS_PER_TOKEN = 8
PAGE = Path(__file__).with_name("page.html")
OPEN = ("/", "/health")  # paths that need no API key
_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "RequestTooLarge",
    429: "QueueFull",
}
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
}


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and the API key."""

    body_bytes: int
    request_tokens: int
    api_key: str = ""  # key that requests must contain; "": no key is needed


def make_app(prm: Prm, batcher: Batcher, limits: Limits) -> web.Application:
    """The aiohttp application."""
    from aiohttp import web
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    from dreamprm_jax.scoring import vllm_protocol
    from dreamprm_jax.scoring.batcher import Busy
    from dreamprm_jax.scoring.protocol import TooLong, characters, parse_steps, steps_response
    from dreamprm_jax.scoring.scorer import NOT_FINITE, is_finite

    started, taken = int(time.time()), 0
    threads = ThreadPoolExecutor(4, "tokenize")  # tokenizing a long text must not block other clients
    registry = CollectorRegistry()
    answered = Counter("dreamprm_requests", "Requests answered.", ["path", "status"], registry=registry)
    seconds = Histogram("dreamprm_request_seconds", "Time to the answer.", ["path"], registry=registry)
    scored = Counter("dreamprm_scored_tokens", "Tokens of scored inputs, prompts included.", registry=registry)
    inputs = Counter("dreamprm_scored_inputs", "Scored programs, or other inputs.", registry=registry)
    waiting = Gauge("dreamprm_waiting_tokens", "Tokens in the queue.", registry=registry)
    waiting.set_function(lambda: batcher.waiting_tokens)
    passes = Gauge("dreamprm_batches", "Batches that the devices have computed.", registry=registry)
    passes.set_function(lambda: batcher.batches)

    def error(status: int, message: str, **headers: str) -> web.Response:
        kind = _KINDS.get(status, "InternalServerError" if status >= 500 else "HTTPError")
        body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
        return web.json_response(body, status=status, headers=headers)

    @web.middleware
    async def errors_as_json(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return error(413, f"the body is larger than {limits.body_bytes} bytes (--max-body-bytes)")
        except web.HTTPException as problem:
            return error(problem.status, f"{request.method} {request.path}: {problem.reason}")
        except TooLong as problem:
            return error(413, str(problem))
        except DataError as problem:
            return error(400, str(problem))
        except Busy as problem:
            return error(429, f"{problem}; try again", **{"Retry-After": "1"})
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as problem:  # the client gets an error, the server runs on
            return error(500, f"{type(problem).__name__}: {problem}")

    @web.middleware
    async def counted(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        start, resource = time.perf_counter(), request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        answer = await handler(request)
        answered.labels(path, answer.status).inc()
        seconds.labels(path).observe(time.perf_counter() - start)
        return answer

    @web.middleware
    async def authorized(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given, wanted = (
            text.encode("utf-8", "surrogateescape")
            for text in (request.headers.get("Authorization", ""), f"Bearer {limits.api_key}")
        )
        if limits.api_key and request.path not in OPEN and not hmac.compare_digest(given, wanted):
            return error(401, "the header Authorization: Bearer KEY is missing or has another key", **_CHALLENGE)
        return await handler(request)

    async def read_body(request: web.Request) -> Mapping[str, Any]:
        try:
            data = await request.read()
        except web.RequestPayloadError as problem:
            raise DataError(f"the body cannot be read ({problem})") from problem
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"the body is not valid JSON ({problem})") from problem
        if not isinstance(body, dict):
            raise DataError("the body must be a JSON object")
        # Checked before tokenization, which takes seconds. Code and prose have two to five characters per token.
        most = CHARACTERS_PER_TOKEN * limits.request_tokens
        if (size := characters(body)) > most:
            raise TooLong(f"{size} characters in one request; at most {most} (--max-request-tokens)")
        if body.get("model") not in (None, prm.name):
            raise web.HTTPNotFound(reason=f"the model {body['model']!r} does not exist; this is {prm.name!r}"[:200])
        return body

    async def logits_of(readings: list[Reading]) -> Any:
        nonlocal taken
        tokens = sum(len(reading.tokens) for reading in readings)
        if tokens > limits.request_tokens:
            raise TooLong(f"{tokens} tokens in one request; at most {limits.request_tokens} (--max-request-tokens)")
        answer = batcher.submit(readings)
        taken += 1
        logits = await asyncio.wrap_future(answer)
        if not all(map(is_finite, logits)):
            raise FloatingPointError(NOT_FINITE)
        scored.inc(tokens)
        inputs.inc(len(readings))
        return logits

    async def on_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)

    async def vllm(request: web.Request) -> web.Response:
        kind = request.path.rpartition("/")[2]
        parsed = await on_thread(vllm_protocol.parse, kind, await read_body(request), prm)
        answer = vllm_protocol.response(parsed, await logits_of(parsed.readings), prm)
        if isinstance(answer, vllm_protocol.Packed):
            headers = {"metadata": answer.metadata} if answer.metadata else {}
            return web.Response(body=answer.body, headers=headers, content_type="application/octet-stream")
        return web.json_response(answer)

    async def score_steps(request: web.Request) -> web.Response:
        parsed = await on_thread(parse_steps, await read_body(request), prm)
        return web.json_response(steps_response(parsed, await logits_of(parsed.readings), prm))

    async def health(request: web.Request) -> web.Response:
        state = {"status": "ok", "model": prm.name, "requests": taken, "waiting_tokens": batcher.waiting_tokens}
        return web.json_response(state)

    async def models(request: web.Request) -> web.Response:
        card = {"id": prm.name, "object": "model", "created": started, "owned_by": "dreamprm"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": prm.limits.max_length}]})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html", headers=_PAGE_HEADERS)

    async def close_threads(app: web.Application) -> None:
        threads.shutdown()

    app = web.Application(middlewares=[counted, errors_as_json, authorized], client_max_size=limits.body_bytes)
    for prefix in ("", "/v1"):
        for path in ("/pooling", "/classify", "/score"):
            app.router.add_post(prefix + path, vllm)
        app.router.add_post(f"{prefix}/score_steps", score_steps)
        app.router.add_get(f"{prefix}/models", models)
    app.router.add_get("/", page)
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    app.on_cleanup.append(close_threads)
    return app
