"""Serves a reward model over HTTP.

  POST /pooling      vLLM's pooling schema: {model, input | messages, ...} -> one [score] a token, or a step
  POST /score_steps  {problem: {statement, title, platform}, code | codes} -> span and score of every step
  GET  /health       200 while it serves
  GET  /v1/models    the model's name and context

Requests that come in together are scored together. An answer that is no 200 is JSON with the reason: 400 malformed, 404
unknown model or path, 413 too large, 429 queue full (with Retry-After), 500 the device's error. SIGTERM ends the server
after it has answered what it has taken. Needs the extra 'serve' (pip install 'dreamprm-jax[serve]').
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamprm_jax.schema import DataError
from dreamprm_jax.scoring.cli import add_prm_arguments, check_positive, prm_options

if TYPE_CHECKING:
    from aiohttp import web

    from dreamprm_jax.scoring.batcher import Batcher
    from dreamprm_jax.scoring.prm import Prm
    from dreamprm_jax.scoring.scorer import Reading

CHARACTERS_PER_TOKEN = 8
SHUTDOWN_SECONDS = 60.0  # for the requests that have been taken


@dataclass(frozen=True)
class Limits:
    """What one client may ask for."""

    body_bytes: int
    request_tokens: int


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    result = argparse.ArgumentParser(
        prog="dreamprm serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_prm_arguments(result)
    result.add_argument("--name", help="of the model, as clients give it (default: the folder's or arm's)")
    result.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    result.add_argument("--port", type=int, default=8000, help="0 takes any free one and prints it (default: 8000)")
    result.add_argument("--max-body-bytes", type=int, default=16 << 20, help="of a request (default: 16 MiB)")
    result.add_argument("--max-request-tokens", type=int, default=1 << 17, help="of a request (default: 131072)")
    result.add_argument("--max-queue-tokens", type=int, default=1 << 20, help="that may wait (default: 1048576)")
    return result


def main(args: argparse.Namespace) -> int:
    """Loads the model and serves it until SIGTERM or SIGINT.

    Raises:
      DataError: without the extra, a model or the port.
    """
    check_positive(
        args, "max_length", "row_tokens", "batch_tokens", "fsdp", "tensor", "max_body_bytes", "max_request_tokens",
        "max_queue_tokens",
    )  # fmt: skip
    try:
        from aiohttp import web
    except ImportError as error:
        raise DataError("dreamprm serve needs aiohttp: pip install 'dreamprm-jax[serve]'") from error
    import dataclasses

    import numpy as np

    from dreamprm_jax.scoring.batcher import Batcher
    from dreamprm_jax.scoring.prm import load_prm
    from dreamprm_jax.scoring.scorer import Reading, Scorer

    try:
        listener = socket.create_server((args.host, args.port))
    except (OSError, OverflowError) as error:
        raise DataError(f"--host={args.host} --port={args.port}: cannot be listened on ({error})") from error
    with listener:
        prm = load_prm(args.prm, prm_options(args))
        prm = dataclasses.replace(prm, name=args.name or prm.name)
        scorer = Scorer(prm.model, prm.mesh, prm.params, args.row_tokens, args.batch_tokens)
        scorer.logits([Reading(np.zeros(1, np.int32), np.zeros(1, np.int32))])  # fails now, if it fails
        with Batcher(scorer, args.max_queue_tokens) as batcher:
            app = make_app(prm, batcher, Limits(args.max_body_bytes, args.max_request_tokens))
            host, port = listener.getsockname()[:2]
            print(f"serving {prm.name} ({prm.checkpoint}) on http://{host}:{port}", flush=True)
            web.run_app(app, sock=listener, print=None, shutdown_timeout=SHUTDOWN_SECONDS, access_log=None)
    print("stopped", flush=True)
    return 0


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

    started, taken = int(time.time()), 0
    threads = ThreadPoolExecutor(4, "tokenise")  # a long text must not hold up the other clients

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
        return await asyncio.wrap_future(answer)

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
