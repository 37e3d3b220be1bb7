"""Canary attacks on one worker, before the first program: everything that its tier promises to deny must be denied."""

from __future__ import annotations

import os
import select
import warnings

from dreamprm_jax import schema
from dreamprm_jax.sandbox.grading import Grader
from dreamprm_jax.sandbox.inside import frames, jobs
from dreamprm_jax.sandbox.records import JudgeTask, SandboxUnavailable
from dreamprm_jax.sandbox.worker import Worker

_PROGRAM = """
import ctypes, os, socket, sys
held = []
def denied(name, attempt, error=PermissionError):
    # the attempts do no harm where they are not denied: they fail for another reason, or do nothing
    try:
        attempt()
    except error:
        held.append(name)
    except OSError:
        pass
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "denied")
libc = ctypes.CDLL(None, use_errno=True)
denied("writing files", lambda: open("/nonexistent/canary", "w"))
denied("making folders", lambda: os.mkdir("/nonexistent/canary"))
denied("reading files", lambda: open("/etc/passwd").read())
denied("reading other processes", lambda: open("/proc/%d/status" % os.getppid()).read())
denied("listing files", lambda: os.listdir("/"))
denied("sockets", lambda: socket.socket())
denied("unix sockets", lambda: socket.socket(socket.AF_UNIX))
denied("fork", lambda: os._exit(0) if os.fork() == 0 else None)
denied("exec", lambda: os.execv("/nonexistent", ["true"]))
denied("signals", lambda: os.kill(os.getppid(), 0))
denied("ptrace", lambda: checked(libc.ptrace(16, 0x3FFFFFFF, 0, 0)))
denied("namespaces", lambda: checked(libc.unshare(0x10000000)))
denied("memory", lambda: bytearray(1 << 40), MemoryError)
if os.getppid() == 1 and os.getpid() < 100:
    held.append("process namespace")
if os.environ.get("HOME") is None and len(os.environ) < 12:
    held.append("environment")
sys.stdout.write("\\n".join(sorted(set(held))))
"""
_PORTABLE = {
    "environment",
    "exec",
    "fork",
    "listing files",
    "making folders",
    "memory",
    "namespaces",
    "ptrace",
    "reading files",
    "reading other processes",
    "signals",
    "sockets",
    "unix sockets",
    "writing files",
}
_PROMISED = {
    "FULL": _PORTABLE | {"process namespace"},
    "PORTABLE": _PORTABLE,
    "EXTERNAL": {"memory"},
    "UNSAFE": set[str](),
}


def check_worker(worker: Worker, tier: str) -> None:
    """Attacks a worker. For tier EXTERNAL, warns about the attacks that only the container can deny.

    Raises:
      SandboxUnavailable: if an attack that the tier promises to deny is not denied; names all such attacks.
    """
    task = JudgeTask("canary", _PROGRAM, (schema.TestCase("", ""),))
    grader = Grader(task, functional=False, official=False, first=0, output_bytes=1 << 20)
    grader.open()
    try:
        held = _attack(worker, grader, task)
    finally:
        grader.close()
    missing = sorted(_PROMISED[tier] - held)
    if missing:
        raise SandboxUnavailable(
            f"sandbox tier {tier} does not hold on this machine: a test program was not denied {', '.join(missing)}. "
            "Choose a lower tier (FULL > PORTABLE > EXTERNAL: only inside a container or VM that you trust > UNSAFE)."
        )
    lacking = sorted(_PORTABLE - held) if tier == "EXTERNAL" else []
    if lacking:
        reasons = "; ".join(f"{name}: {why}" for name, why in worker.hello().items() if isinstance(why, str))
        warnings.warn(
            f"sandbox tier EXTERNAL: the surrounding container must deny programs {', '.join(lacking)}, because the "
            f"kernel does not ({reasons or 'for an unknown reason'})",
            stacklevel=3,
        )


def _attack(worker: Worker, grader: Grader, task: JudgeTask) -> set[str]:
    job = jobs.Job(jobs.FAITHFUL, jobs.SCRIPT, 6, 1 << 20, task.code.encode(), b"", [b""])
    source = os.memfd_create("job", os.MFD_CLOEXEC)
    try:
        os.write(source, job.pack())
        request = jobs.Request(jobs.RUN, 0, 10.0, 20.0, 60.0, 1 << 30, 1 << 20)
        worker.send(request, (source, grader.output_file, grader.result_file))
    finally:
        os.close(source)
    readable, _, _ = select.select([worker], [], [], 70.0)
    reply = worker.receive() if readable else None
    if reply is None or reply.ending == jobs.FAILED:
        raise SandboxUnavailable(f"the sandbox's start-up probe failed: {reply.error if reply else 'no answer'}")
    results, _, _ = frames.parse(os.pread(grader.result_file, 1 << 20, 0))
    if len(results) != 1 or results[0].status != frames.OK:
        detail = results[0].payload.decode("utf-8", "replace") if results else f"status {reply.value}"
        raise SandboxUnavailable(f"the sandbox's start-up probe failed: {detail}")
    return set(os.pread(grader.output_file, 1 << 20, 0).decode("utf-8", "replace").split("\n"))
