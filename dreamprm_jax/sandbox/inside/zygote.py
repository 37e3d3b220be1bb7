"""A worker: a small interpreter that forks one locked-down child for every program, and watches over it.

It never holds a program, an input or an output: those go from the judge to the child by descriptor. Started by path in
a fresh interpreter (``bootstrap``), with one argument: its settings as JSON.
"""

from __future__ import annotations

import builtins
import fcntl
import gc
import json
import os
import resource
import select
import signal
import site
import socket
import sys
import time
import traceback
from typing import Any

from . import devnull, jobs, lockdown, official, packages, script
from .jobs import Job, Reply, Request
from .report import RESULT_FD

_POLL_SECONDS = 0.25  # a child with several threads spends its CPU time faster than the clock runs
_LOOK_SECONDS = 0.5  # beyond its wall time: how often a child is asked whether it still computes
_COMPUTES = 0.05  # the share of a core from which on it does
_HAD_A_CORE = 0.9  # the share from which on nobody held it up
_THREADS = 1024  # that one child may start, over its whole life
_READY = b"R"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def main() -> None:
    """Reads the settings, locks the worker down, says how that went, serves until the judge closes the socket."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    try:
        worker = Worker(control, settings)
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    worker.serve()


class Worker:
    """The process that forks."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control = control
        self.lock = settings["lock"]
        hello: dict[str, Any] = {"landlock": lockdown.landlock_version()}
        if settings["namespaces"]:
            lockdown.unshare_namespaces()
            _become_first_of_namespace(control)
        lockdown.die_with_parent()
        packages.offer(settings["packages"])
        for name in settings["preload"]:
            __import__(name)
        devnull.install()
        self.official_module = official.prepare()
        sys.setrecursionlimit(1000)
        site.setquit()
        site.setcopyright()
        site.sethelper()
        own = {name: value for name, value in vars(self.official_module).items() if not name.startswith("__")}
        self.prelude = {**vars(builtins), **own}
        lockdown.limit_worker()
        lockdown.not_dumpable()
        self.own_memory = _virtual_memory()
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.filter: lockdown.Filter | None = None
        self.threads: lockdown.ThreadWatch | None = None
        if self.lock != "none":
            self._give_up_rights(settings["readable"], hello)
        self.ready_read, self.ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        gc.collect()
        gc.freeze()
        hello["memory_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        control.send(json.dumps(hello).encode())

    def _give_up_rights(self, readable: list[str], hello: dict[str, Any]) -> None:
        """Takes away what the kernel can take away; under ``lock == "require"`` anything missing is an error."""

        def build_filter() -> None:
            self.filter = lockdown.Filter()

        def watch_threads() -> None:
            self.threads = lockdown.ThreadWatch()

        steps = {
            "no_new_privileges": lockdown.no_new_privileges,
            "capabilities": lockdown.drop_capabilities,
            "files": lambda: lockdown.restrict_files(readable),
            "filter": build_filter,
            "threads": watch_threads,
        }
        for name, step in steps.items():
            try:
                step()
            except OSError as error:
                if self.lock == "require":
                    raise
                hello[name] = str(error)

    def serve(self) -> None:
        """Runs one child after the other."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.control, 4096, 4)
            if not data:
                return
            request = Request.unpack(data)
            if request.kind == jobs.RUN:
                reply = self.run(request, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                self.control.send(reply.pack())

    def run(self, request: Request, descriptors: list[int]) -> Reply:
        """Forks, waits for the end or a limit, and says which it was."""
        try:
            pid = os.fork()
        except OSError as error:
            return Reply(request.number, jobs.FAILED, 0, 0.0, 0, f"fork: {error}")
        if pid == 0:
            self.child(request, descriptors)
        ending = self.watch(pid, request)
        _, status, usage = os.wait4(pid, 0)
        cpu = usage.ru_utime + usage.ru_stime
        note = self.note()
        if not note.startswith(_READY) and ending is None:
            return Reply(request.number, jobs.FAILED, status, cpu, usage.ru_maxrss, note.decode() or "child not ready")
        if ending is None:
            signalled = os.WIFSIGNALED(status)
            ending = jobs.SIGNALLED if signalled else jobs.EXITED
            value = os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status)
            if signalled and value == signal.SIGKILL and cpu >= request.cpu_seconds:
                ending = jobs.CPU_LIMIT  # the kernel's own limit, where this process came too late
        else:
            value = signal.SIGKILL
        return Reply(request.number, ending, value, cpu, usage.ru_maxrss)

    def note(self) -> bytes:
        """What the child said about its lockdown, before it saw the program."""
        try:
            return os.read(self.ready_read, 4096)
        except BlockingIOError:
            return b""

    def watch(self, pid: int, request: Request) -> int | None:
        """Waits for the child's end; kills it at a limit or on request. Returns why it was killed, if it was.

        The wall limit ends children that wait, and those that had a core. One that computes then, and had less than
        its share of a core so far, goes on to its CPU limit, or to ``longest_seconds``.
        """
        ended = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        questions = -1 if self.threads is None else self.threads.descriptor
        if self.threads is not None:
            poll.register(questions, select.POLLIN)
        asked = 0
        clock = (~pid << 3) | 2  # the kernel's id of that process's CPU clock
        looked = started = time.monotonic()
        deadline = started + request.wall_seconds
        left = left_then = request.cpu_seconds
        reason = None
        try:
            while True:
                wait = min(left, deadline - time.monotonic(), _POLL_SECONDS)
                events = poll.poll(max(1, int(wait * 1000) + 1))
                ready = {descriptor for descriptor, _ in events}
                if ended in ready:
                    return None
                if self.threads is not None and questions in ready:
                    asked += 1
                    self.threads.answer(allow=asked <= _THREADS)
                if self.control.fileno() in ready:
                    data = self.control.recv(4096)
                    if not data:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        os._exit(0)
                    if Request.unpack(data).number == request.number:
                        reason = jobs.CANCELLED
                left = request.cpu_seconds - time.clock_gettime(clock)
                if reason is None and left <= 0:
                    reason = jobs.CPU_LIMIT
                now = time.monotonic()
                if reason is None and now >= deadline:
                    computes = left_then - left >= _COMPUTES * (now - looked)
                    held_up = request.cpu_seconds - left < _HAD_A_CORE * (now - started)
                    if not (computes and held_up) or now >= started + request.longest_seconds:
                        reason = jobs.WALL_LIMIT
                    looked, left_then, deadline = now, left, now + _LOOK_SECONDS
                if reason is not None:
                    os.kill(pid, signal.SIGKILL)
                    return reason
        finally:
            os.close(ended)

    def child(self, request: Request, descriptors: list[int]) -> None:
        """The forked child: locks itself down, runs the job, ends. Never returns."""
        status = 1
        try:
            lockdown.die_with_parent()
            job, inputs = _take(descriptors, self.null)
            file_bytes = request.file_bytes
            memory = self.own_memory + request.memory_bytes + sum(map(len, job.inputs))
            lockdown.limit_resources(int(request.cpu_seconds) + 2, memory, file_bytes)
            self.control.close()
            os.close(self.ready_read)
            if self.threads is not None:
                os.close(self.threads.descriptor)
            if self.filter is not None:
                self.filter.install()
            os.write(self.ready_write, _READY)
            os.close(self.ready_write)
        except BaseException:
            os.write(self.ready_write, traceback.format_exc(limit=3)[-1500:].encode())
            os._exit(status)
        try:
            if job.mode == jobs.OFFICIAL:
                official.run(job, self.official_module)
            else:
                script.run(job, inputs, self.prelude)
            status = 0
        finally:
            os._exit(status)


def _take(descriptors: list[int], null: int) -> tuple[Job, list[int]]:
    """Reads the job file and puts every descriptor in its place: 0 to 2 the standard ones, 3 the result file."""
    source, output, result = descriptors
    size = os.fstat(source).st_size
    data = bytearray()
    while len(data) < size:
        data += os.pread(source, size - len(data), len(data))
    os.close(source)
    job = Job.unpack(bytes(data))
    real = job.mode == jobs.FAITHFUL
    os.dup2(null, 0)
    os.dup2(null, 2)
    os.dup2(output if real else null, 1)
    # the result file's own number may be 3 already, or another's: move through a high one
    high = os.dup(result)
    for descriptor in (null, output, result):
        os.close(descriptor)
    os.dup2(high, RESULT_FD)
    if high != RESULT_FD:
        os.close(high)
    inputs: list[int] = []
    for text in job.inputs if real else ():
        stdin = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
        if job.kind == jobs.SCRIPT:
            view = memoryview(text)
            while view:
                view = view[os.write(stdin, view) :]
            os.lseek(stdin, 0, os.SEEK_SET)
        fcntl.fcntl(stdin, fcntl.F_ADD_SEALS, _SEALS)  # its memory counts against no limit
        inputs.append(stdin)
    return job, inputs


def _become_first_of_namespace(control: socket.socket) -> None:
    """Continues as process 1 of the new PID namespace; the process left outside only waits for it."""
    pid = os.fork()
    if pid == 0:
        return
    control.close()
    os.waitpid(pid, 0)
    os._exit(0)


def _virtual_memory() -> int:
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[0]) * resource.getpagesize()
