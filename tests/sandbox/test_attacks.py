"""Hostile programs: none passes, changes the machine or outlives its judge, and the judge keeps running."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import attack_harness

from dreamprm_jax.sandbox import SandboxUnavailable

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / ".." / "shared" / "data" / "sandbox" / "attacks.jsonl"
OWN = HERE / "own_attacks.jsonl"
# One attack of each kind, for the quick run.
QUICK = {
    "always_equal", "closes_everything", "fake_bad_input", "fake_broken_sandbox", "forged_offset", "forged_passes",
    "frame_noise", "int80_fork", "io_uring", "loads_filter", "openat2_write", "patched_encoder", "pipes",
    "secret_by_mmap", "secret_environment", "signal_everybody", "stream_pair_connects", "subprocess_shell",
    "harness_poisoned", "posix_timer", "queues_signals", "result_file_mapped", "roundabout_secret",
}  # fmt: skip


def load(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(attacks: list[dict[str, Any]], mode: str, tier: str) -> list[str]:
    try:
        return attack_harness.run(attacks, mode, tier)
    except SandboxUnavailable as error:
        if tier == "FULL":
            pytest.skip(f"no namespaces here: {error}")
        raise


def test_attacks_of_every_kind_fail() -> None:
    attacks = [attack for attack in load(OWN) if attack["id"] in QUICK]
    assert len(attacks) == len(QUICK)
    assert run(attacks, "faithful", "PORTABLE") == []


def test_there_are_many_attacks_of_our_own() -> None:
    attacks = load(OWN)
    assert len({attack["id"] for attack in attacks}) == len(attacks) >= 120


def test_a_program_starts_a_bounded_number_of_threads() -> None:
    code = """
import _thread
_thread.stack_size(32768)
lock = _thread.allocate_lock()
lock.acquire()
started = 0
try:
    while True:
        _thread.start_new_thread(lock.acquire, ())
        started += 1
except RuntimeError:
    print(started)
"""
    tasks = [attack_harness.JudgeTask("threads", code, (attack_harness.TestCase("", "127\n"),))] * 2
    with attack_harness.Judge(limits=attack_harness.PATIENT, workers=1) as judge:
        results = list(judge.evaluate([*tasks, attack_harness.SANE]))
    assert [result.verdict.value for result in results] == ["AC"] * 3, results


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "tier"), [("faithful", "PORTABLE"), ("lcb", "FULL")])
def test_own_attacks(mode: str, tier: str) -> None:
    assert run(load(OWN), mode, tier) == []


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "tier"), [("faithful", "PORTABLE"), ("faithful", "FULL")])
def test_shared_attacks(mode: str, tier: str) -> None:
    assert run(load(SHARED), mode, tier) == []


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="not root: the other tests run as an ordinary user already")
@pytest.mark.parametrize(
    ("tier", "file", "names"),
    [("PORTABLE", OWN, None), ("PORTABLE", SHARED, None), ("FULL", OWN, QUICK)],
    ids=["own", "shared", "quick"],
)
def test_attacks_as_an_ordinary_user(tier: str, file: Path, names: set[str] | None) -> None:
    attacks = load(file)  # skips if the shared attacks are missing
    chosen = [attack for attack in attacks if names is None or attack["id"] in names]
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("needs unshare and setpriv to become another user")
    # The interpreter may be inside a private home folder. A separate mount namespace makes its path accessible.
    home, base = Path.home(), Path(sys.base_prefix)
    script = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    if base.is_relative_to(home):
        top, aside = home / base.relative_to(home).parts[0], f"/tmp/.home-{os.getpid()}"
        script = (
            f"mount --make-rprivate / && mkdir -p {aside} && mount --bind {top} {aside}"
            f" && mount -t tmpfs -o mode=755 tmpfs {home} && mkdir {top}"
            f" && mount --move {aside} {top} && rmdir {aside} && {script}"
        )
    with tempfile.TemporaryDirectory() as folder:  # other users cannot read pytest's folders
        Path(folder).chmod(0o755)
        suite = Path(folder) / "attacks.jsonl"
        suite.write_text("".join(json.dumps(attack) + "\n" for attack in chosen))
        command = [sys.executable, str(HERE / "attack_harness.py"), str(suite), "faithful", tier]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", "env", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", *command],
            capture_output=True,
            text=True,
            timeout=1200,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"tier {tier}, uid 65534: 0 wrong" in done.stdout
