"""Serves a reward model over HTTP.

  POST /pooling      vLLM's pooling schema: {model, input | messages, ...} -> one [score] a token, or a step
  POST /score_steps  {problem: {statement, title, platform}, code | codes} -> span and score of every step
  GET  /health       200 while it serves
  GET  /v1/models    the model's name and context

Requests that come in together are scored together. Errors are JSON with the reason: 400 malformed, 404 unknown model
or path, 413 too large, 429 queue full (with Retry-After), 500 the device's error. SIGTERM ends the server
after it has answered what it has taken. Needs the extra 'serve' (pip install 'dreamprm-jax[serve]').
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    from aiohttp import web

    from dreamprm_jax.scoring.batcher import Batcher
    from dreamprm_jax.scoring.prm import Prm
    from dreamprm_jax.scoring.scorer import Reading

CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class Limits:
    """What one client may ask for."""

    body_bytes: int
    request_tokens: int


def make_app(prm: Prm, batcher: Batcher, limits: Limits) -> web.Application:
    """The aiohttp application."""
    from aiohttp import web

    from dreamprm_jax.scoring.batcher import Busy
    from dreamprm_jax.scoring.protocol import (
        TooLong,
        characters,
        parse_pooling,
        parse_steps,
        pooling_response,
        steps_response,
    )
    from dreamprm_jax.scoring.scorer import NOT_FINITE, is_finite

    started, taken = int(time.time()), 0
    threads = ThreadPoolExecutor(4, "tokenize")  # a long text must not hold up the other clients

    def error(status: int, message: str, **headers: str) -> web.Response:
        kinds = {400: "BadRequestError", 404: "NotFoundError", 413: "RequestTooLarge", 429: "QueueFull"}
        kind = kinds.get(status, "InternalServerError" if status >= 500 else "HTTPError")
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
        except Exception as problem:  # the client is told, the server lives
            return error(500, f"{type(problem).__name__}: {problem}")

    async def read_body(request: web.Request) -> Mapping[str, Any]:
        data = await request.read()
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"the body is not valid JSON ({problem})") from problem
        if not isinstance(body, dict):
            raise DataError("the body must be a JSON object")
        # Told before the seconds that tokenizing takes; code and prose have two to five characters a token.
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
        return logits

    async def on_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)

    async def pooling(request: web.Request) -> web.Response:
        parsed = await on_thread(parse_pooling, await read_body(request), prm)
        return web.json_response(pooling_response(parsed, await logits_of(parsed.readings), prm))

    async def score_steps(request: web.Request) -> web.Response:
        parsed = await on_thread(parse_steps, await read_body(request), prm)
        return web.json_response(steps_response(parsed, await logits_of(parsed.readings), prm))

    async def health(request: web.Request) -> web.Response:
        state = {"status": "ok", "model": prm.name, "requests": taken, "waiting_tokens": batcher.waiting_tokens}
        return web.json_response(state)

    async def models(request: web.Request) -> web.Response:
        card = {"id": prm.name, "object": "model", "created": started, "owned_by": "dreamprm"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": prm.limits.max_length}]})

    async def close_threads(app: web.Application) -> None:
        threads.shutdown()

    app = web.Application(middlewares=[errors_as_json], client_max_size=limits.body_bytes)
    app.router.add_post("/pooling", pooling)
    app.router.add_post("/score_steps", score_steps)
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", models)
    app.on_cleanup.append(close_threads)
    return app
