"""Runs ``dreamprm_jax.cli.local_server`` in a separate process, which ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys
from typing import IO

from dreamprm_jax.cli.local_server import READY
from dreamprm_jax.schema import DataError


class LocalServer:
    """A server in a separate process, ready to answer: the process and its address. A ``with`` block stops it."""

    def __init__(
        self, port: int = 0, threads: int = 1, slots: int = 4, context: int = 2048, log: IO[bytes] | None = None
    ):
        """Starts the server and waits until it answers. Raises DataError if it does not start."""
        settings = {"port": port, "threads": threads, "slots": slots, "context": context}
        command = [sys.executable, "-m", "dreamprm_jax.cli.local_server", "--until-stdin-closes"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log or subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(READY):
                self.base_url = line.removeprefix(READY).split(",")[0]
                return
        raise DataError(f"{' '.join(command[1:])} ended with status {self.process.wait()} before it answered")

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return int(self.base_url.removesuffix("/v1").rsplit(":", 1)[1])

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.process.kill()
        self._close()

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL if the server does not end within 10 seconds."""
        self.process.terminate()
        try:
            self.process.wait(10)
            self._close()
        except subprocess.TimeoutExpired:
            self.kill()

    def _close(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
