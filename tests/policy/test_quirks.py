"""Every kind of server in the table of quirks: it works, or the error names the setting that works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import openai
import pytest
from quirks import QUIRKS, serve

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.protocol import CompletionRequest, PolicyError
from dreamprm_jax.policy.server import ServerPolicy
from dreamprm_jax.schema import DataError, Problem

REQUEST = CompletionRequest(Problem("p", "Double", "Print twice it.", "own", "c", "2024-01-01", "easy"), "", 3, 0.5, 3)


@pytest.mark.parametrize("name", QUIRKS)
def test_quirk(name, tmp_path):
    quirk = QUIRKS[name]
    with serve(quirk) as address:
        settings = {"model": "m", "base_url": address, "continuation": "chat" if quirk.chat else "completions"}
        policy = ServerPolicy(PolicyConfig(kind="server", **settings | quirk.settings), tmp_path, backoff_seconds=0.01)
        if quirk.raises:
            with pytest.raises((DataError, PolicyError), match=quirk.raises):
                policy.complete(REQUEST)
            return
        completions = policy.complete(REQUEST)
        assert len(completions) == 3
        assert all(one.fault.startswith(quirk.fault) and bool(one.fault) == bool(quirk.fault) for one in completions)
        assert quirk.fault or all(quirk.code in one.code and (quirk.code or not one.code) for one in completions)
        assert tuple(policy.sampling(0.5).get("not_sent", ())) == quirk.not_sent
        assert policy.complete(REQUEST)[0].fault == completions[0].fault
        policy.close()
        # The refused parameters are recorded, so that rows can be written without a server.
        assert tuple(ServerPolicy(policy.config, tmp_path).sampling(0.5).get("not_sent", ())) == quirk.not_sent


def test_a_refused_value_is_not_a_refused_parameter(tmp_path):
    with serve(QUIRKS["o4-mini: temperature at 1 alone"]) as address:
        policy = ServerPolicy(PolicyConfig(kind="server", model="m", base_url=address, continuation="chat"), tmp_path)
        policy.complete(REQUEST)
        assert policy.abilities.refused == ("temperature=0.5",)
        assert "not_sent" not in policy.sampling(1.0)


OTHER = "DREAMPRM_OTHER_OPENAI"


@pytest.mark.slow
def test_every_quirk_with_the_client_s_other_major_version():
    if not (folder := os.environ.get(OTHER)):
        pytest.skip(f"pip install --target=FOLDER 'openai>=2,<3' (or >=3), and set {OTHER}=FOLDER")
    environment = {**os.environ, "PYTHONPATH": folder}
    version = [sys.executable, "-c", "import openai; print(openai.__version__.split('.')[0])"]
    theirs = subprocess.run(version, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert theirs != openai.__version__.split(".")[0]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize("behavior", ["slow", "fail500_99", "nowhere"])
def test_close_ends_calls_that_wait(server, behavior):
    """A waiting socket, a sleeping retry, a missing server: each call ends with PolicyError."""
    policy = server(behavior, timeout_seconds=300.0)
    policy._transport.backoff_seconds = 60.0
    if behavior == "nowhere":
        config = PolicyConfig(kind="server", model="m", base_url="http://127.0.0.1:9/v1")
        policy = ServerPolicy(config, backoff_seconds=60.0)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            policy.complete(REQUEST)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    policy.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert [type(error) for error in errors] == [PolicyError] * 3
    assert all("closed" in str(error) for error in errors)
