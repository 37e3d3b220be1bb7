"""Endpoints: POST /score_steps, and vLLM's /pooling, /classify and /score; GET / (a page to try the model), /health,
/models, /metrics. On SIGTERM, the server answers the requests it has accepted and exits. Each request is logged on
standard error. Needs the extra 'serve' (pip install 'dreamprm-jax[serve]').
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import socket

from dreamprm_jax.cli.score import add_prm_arguments, check_positive, prm_options
from dreamprm_jax.runs.stop_signals import stops_by_itself
from dreamprm_jax.schema import DataError

SHUTDOWN_SECONDS = 60.0  # time to finish requests that were accepted before SIGTERM
API_KEY = "DREAMPRM_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_prm_arguments(parser)
    parser.add_argument("--name", help="model name in the API (default: the name of the folder or arm)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free port and prints it")
    parser.add_argument(
        "--max-body-bytes", type=int, default=16 << 20, help="maximum size of a request (default: 16 MiB)"
    )
    parser.add_argument("--max-request-tokens", type=int, default=1 << 17, help="maximum tokens of a request")
    parser.add_argument("--max-batch-requests", type=int, default=256, help="maximum requests scored together")
    parser.add_argument(
        "--api-key", metavar="KEY",
        help=f"key that requests must send as Authorization: Bearer KEY (default: ${API_KEY}, which ps does not show)",
    )  # fmt: skip
    parser.add_argument("--no-request-log", action="store_true", help="do not log requests")
    parser.add_argument("--max-queue-tokens", type=int, default=1 << 20, help="maximum tokens in the queue")


def main(args: argparse.Namespace) -> int:
    """Loads the model and serves it until SIGTERM or SIGINT. Returns the exit status."""
    check_positive(
        args, "max_length", "row_tokens", "batch_tokens", "fsdp", "tensor", "max_body_bytes", "max_request_tokens",
        "max_queue_tokens", "max_batch_requests",
    )  # fmt: skip
    try:
        import prometheus_client  # noqa: F401
        from aiohttp import web
    except ImportError as error:
        raise DataError(f"dreamprm serve needs {error.name}: pip install 'dreamprm-jax[serve]'") from error
    import numpy as np

    from dreamprm_jax.scoring.batcher import Batcher
    from dreamprm_jax.scoring.prm import load_prm
    from dreamprm_jax.scoring.scorer import Reading, Scorer
    from dreamprm_jax.scoring.serve import Limits, make_app

    try:
        listener = socket.create_server((args.host, args.port))
    except (OSError, OverflowError) as error:
        raise DataError(f"--host={args.host} --port={args.port}: cannot listen there ({error})") from error
    with listener:
        prm = load_prm(args.prm, prm_options(args))
        prm = dataclasses.replace(prm, name=args.name or prm.name)
        scorer = Scorer(prm.model, prm.mesh, prm.params, args.row_tokens, args.batch_tokens)
        scorer.logits([Reading(np.zeros(1, np.int32), np.zeros(1, np.int32))])  # so that an error occurs before serving
        log = None if args.no_request_log else _request_log()
        key = args.api_key or os.environ.get(API_KEY, "")
        with Batcher(scorer, args.max_queue_tokens, args.max_batch_requests) as batcher:
            app = make_app(prm, batcher, Limits(args.max_body_bytes, args.max_request_tokens, key))
            host, port = listener.getsockname()[:2]
            print(f"serving {prm.name} ({prm.checkpoint}) on http://{host}:{port}", flush=True)
            with stops_by_itself():
                web.run_app(
                    app, sock=listener, print=None, shutdown_timeout=SHUTDOWN_SECONDS,
                    access_log=log, access_log_format='%a %t "%r" %s %b bytes, %Tf s',
                )  # fmt: skip
    print("stopped", flush=True)
    return 0


def _request_log() -> logging.Logger:
    """A logger that writes one line per request to standard error."""
    log = logging.getLogger("dreamprm.requests")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.StreamHandler()]
    return log
