"""Runs hostile programs in a judge and checks what they did to the machine.

The environment of an attack: a world-writable scratch folder with a file ``victim``, a readable file with a secret, the
secret in the judge's environment variables, a listening TCP port and a listening abstract Unix socket.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import TestCase, Verdict

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=3.0, memory_bytes=1 << 30)
PATIENT = dataclasses.replace(LIMITS, cpu_seconds=30.0, wall_seconds=90.0)
SECRET = "topsecret"
TCP_PORT = 45991
UNIX_NAME = "\0pwnsock"
SANE = JudgeTask("sane", "print(sum(map(int, input().split())))", (TestCase("3 4\n", "7\n"),))


@dataclass
class World:
    """The targets that attacks may try to access."""

    scratch: Path
    secret_file: Path
    listeners: list[socket.socket] = field(default_factory=list)

    def code(self, attack: dict[str, Any]) -> str:
        """The attack's code with this world's paths."""
        return (
            str(attack["code"]).replace("{SCRATCH}", str(self.scratch)).replace("{SECRET_FILE}", str(self.secret_file))
        )

    def damage(self) -> list[str]:
        """The damage that an attack has done."""
        found = [path.name for path in self.scratch.iterdir() if path.name.startswith("pwn_")]
        victim = self.scratch / "victim"
        if not victim.exists() or victim.read_text() != "untouched" or stat.S_IMODE(victim.stat().st_mode) != 0o644:
            found.append("victim")
        for listener in self.listeners:
            try:
                listener.accept()[0].close()
                found.append(f"connection to {listener.getsockname()!r}")
            except BlockingIOError:
                pass
        return found


@contextmanager
def world() -> Iterator[World]:
    """Builds the world, and removes it at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
        folder.chmod(0o755)
        scratch, secret_file = folder / "scratch", folder / "secret"
        scratch.mkdir()
        scratch.chmod(0o777)
        (scratch / "victim").write_text("untouched")
        (scratch / "victim").chmod(0o644)
        secret_file.write_text(SECRET)
        secret_file.chmod(0o644)
        before = os.environ.get("SECRET")
        os.environ["SECRET"] = SECRET
        stack.callback(lambda: os.environ.pop("SECRET") if before is None else os.environ.update(SECRET=before))
        listeners = [socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)]
        listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listeners[0].bind(("127.0.0.1", TCP_PORT))
        listeners[1].bind(UNIX_NAME)
        for listener in listeners:
            stack.enter_context(listener)
            listener.setblocking(False)
            listener.listen(8)
        yield World(scratch, secret_file, listeners)


def acceptable(attack: dict[str, Any]) -> set[str]:
    """The verdicts that are acceptable for an attack."""
    return set(re.findall(r"\b[A-Z]{2,3}\b", attack["expect"])) & {verdict.value for verdict in Verdict}


def task(attack: dict[str, Any], place: World) -> JudgeTask:
    """The judge task of an attack."""
    kind: Any = "functional" if attack["fn_name"] else "stdin"
    tests = tuple(TestCase(i, o, kind) for i, o in zip(attack["inputs"], attack["outputs"], strict=True))
    return JudgeTask(attack["id"], place.code(attack), tests, attack["fn_name"])


def session_members(sessions: set[int]) -> list[int]:
    """Ids of the processes in these sessions. Each worker starts a session, and its children inherit it."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(int(entry))
    return found


def run(attacks: list[dict[str, Any]], mode: str, tier: str, workers: int = 2) -> list[str]:
    """Judges all attacks and returns descriptions of the failures. The list is empty if the sandbox held."""
    wrong: list[str] = []
    with world() as place:
        with Judge(mode, tier, LIMITS, workers, retry_share=0) as judge:
            results: dict[str, JudgeResult] = {}
            for result in judge.evaluate(task(attack, place) for attack in attacks):
                results[result.key] = result
                if SECRET in result.error:
                    wrong.append(f"{result.key}: the secret is in the error text")
                wrong += [f"around {result.key}: {item}" for item in place.damage()]
            alive = next(judge.evaluate([SANE]))
            if alive.verdict is not Verdict.AC:
                wrong.append(f"afterwards a sane program gets {alive.verdict}: {alive.error}")
            sessions = judge.worker_pids()
        late = [a for a in attacks if results[a["id"]].verdict is Verdict.TLE and "TLE" not in acceptable(a)]
        if late:  # filling a gigabyte may take seconds on a busy machine, so these run again with more time
            with Judge(mode, tier, PATIENT, 1) as judge:
                for attack, result in zip(late, judge.evaluate(task(a, place) for a in late), strict=True):
                    results[attack["id"]] = result
                    if SECRET in result.error:
                        wrong.append(f"{result.key}: the secret is in the error text")
                    wrong += [f"around {attack['id']}, alone: {item}" for item in place.damage()]
                sessions |= judge.worker_pids()
        wrong += [f"process {pid} is left" for pid in session_members(sessions)]
    for attack in attacks:
        result = results[attack["id"]]
        if result.verdict.value not in acceptable(attack):
            wrong.append(f"{attack['id']}: {result.verdict} ({result.error}), not {attack['expect']}")
    return wrong


def main() -> int:
    """``attack_harness.py FILE MODE TIER``: for runs as another user."""
    attacks = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    wrong = run(attacks, sys.argv[2], sys.argv[3])
    print(f"{len(attacks)} attacks, mode {sys.argv[2]}, tier {sys.argv[3]}, uid {os.getuid()}: {len(wrong)} wrong")
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
