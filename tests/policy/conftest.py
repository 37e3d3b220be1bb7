"""A server process with the OpenAI API, and policies that use it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.abilities import Abilities
from dreamprm_jax.policy.server import ServerPolicy

EVERYTHING = Abilities()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    script = Path(__file__).with_name("openai_server.py")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.wait()


@pytest.fixture
def server(address: str) -> Iterator[Callable[..., ServerPolicy]]:
    """Creates policies for a behavior. Each policy has its own model name, and so its own log. By default, the policies
    assume that the server can do everything."""
    opened = []
    numbers = itertools.count(time.monotonic_ns())

    def make(
        behavior: str, folder: Path | None = None, abilities: Abilities | None = EVERYTHING, **settings: Any
    ) -> ServerPolicy:
        config = PolicyConfig(kind="server", base_url=f"{address}/v1", model=f"{behavior}:{next(numbers)}", **settings)
        opened.append(ServerPolicy(config, folder, abilities, backoff_seconds=0.01))
        return opened[-1]

    yield make
    for policy in opened:
        policy.close()
