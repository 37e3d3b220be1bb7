"""A worker: a small interpreter that forks one locked-down child for each program and supervises it.

It never holds a program, an input or an output; they are passed between judge and child as file descriptors. It is
started by path in a fresh interpreter (``worker.Worker``), with its settings as JSON on standard input.
"""

from __future__ import annotations

import builtins
import errno
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
from typing import Any, NamedTuple

from . import denials, devnull, forks, jobs, lockdown, official, packages, script, seccomp
from .denied_calls import DeniedCalls
from .jobs import Job, Reply, Request
from .report import OUTPUT_FD, RESULT_FD
from .stderr import StandardError
from .usage import ChildEnd, ChildUsage, OpenThread, resident_bytes

_POLL_SECONDS = 0.25  # short, because a child with several threads uses CPU time faster than wall time passes
_SHORTEST_POLL_SECONDS = 0.005
_FILL_BYTES_PER_SECOND = 8 << 30  # maximum rate at which a child fills memory; determines the time of the next sample
_RESERVED_BYTES = 64 << 30  # address space beyond the memory limit: thread stacks and sparse arrays are only reserved
_INPUTS_KEPT = 3  # copies of its inputs that this package keeps in a child
_LOOK_SECONDS = 0.5  # interval of checks whether a child beyond its wall time still computes
_COMPUTES = 0.05  # minimum share of a core of a child that computes
_HAD_A_CORE = 0.9  # minimum share of a core of a child that did not lack one
_UNWATCHED_POLL_SECONDS = 0.02  # interval if the kernel does not ask before each new thread
_INPUT_FD = 180  # the first of the tests' inputs, above the program's own descriptors
_READY = b"R"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def main() -> None:
    """Reads the settings, locks the worker down, reports the result, and serves until the judge closes the socket."""
    settings = json.load(sys.stdin)
    control = socket.socket(fileno=settings["control"])
    try:
        worker = Worker(control, settings)
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    worker.serve()


class _Ending(NamedTuple):
    """How the supervision of a child ended."""

    reason: int | None  # why it was killed; None: it ended by itself
    wall_seconds: float
    waited_seconds: float


class Worker:
    """The process that forks."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control = control
        self.lock = settings["lock"]
        self.reports = settings["reports"]
        hello: dict[str, Any] = {"landlock": lockdown.landlock_version()}
        lockdown.first_to_go()
        if settings["namespaces"]:
            lockdown.unshare_namespaces()
            _become_first_of_namespace(control)
        lockdown.die_with_parent()
        packages.offer(settings["packages"])
        for name in settings["preload"]:
            __import__(name)
        forks.heed_handlers()
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
        self.own_resident = _own_resident()
        self.filter: lockdown.Filter | None = None
        self.threads: lockdown.ThreadWatch | None = None
        if self.lock == "none":
            self.open_thread = OpenThread()
        else:
            self._give_up_rights(settings["readable"], hello)
        ChildEnd.prepare()
        self.ready_read, self.ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        gc.collect()
        gc.freeze()
        hello["memory_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        control.send(json.dumps(hello).encode())

    def _give_up_rights(self, readable: list[str], hello: dict[str, Any]) -> None:
        """Removes all rights that the kernel can remove. With ``lock == "require"``, a failed step is an error.

        The only exception is the thread watch. The kernel refuses it if another listener exists, as in some containers;
        the threads of a child are then counted periodically.
        """

        def start_open_thread() -> None:
            self.open_thread = OpenThread()

        def restrict_files() -> None:
            packages.keep_listings(readable)
            lockdown.restrict_files(readable, ["/dev/null"])  # each child opens its own

        def build_filter() -> None:
            self.filter = lockdown.Filter()
            self.killing_filter, self.asking_filter = map(lockdown.Filter, (seccomp.KILLS, seccomp.ASKS))

        def watch_threads() -> None:
            self.threads = lockdown.ThreadWatch()

        steps = {
            "no_new_privileges": lockdown.no_new_privileges,
            "capabilities": lockdown.drop_capabilities,
            "open thread": start_open_thread,
            "files": restrict_files,
            "filter": build_filter,
            "threads": watch_threads,
        }
        if self.reports:  # each child has its own listener
            del steps["threads"]
        for name, step in steps.items():
            try:
                step()
            except OSError as error:
                if self.lock == "require" and (name, error.errno) != ("threads", errno.EBUSY):
                    raise
                hello[name] = str(error)

    def serve(self) -> None:
        """Runs one child after the other."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.control, 4096, 4)
            if not data:
                return
            request = Request.unpack(data)
            if request.kind in (jobs.RUN, jobs.RUN_REPORTING):
                reply = self.run(request, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                self.control.send(reply.pack())

    def run(self, request: Request, descriptors: list[int]) -> Reply:
        """Forks a child, waits until it ends or reaches a limit, and reports which occurred."""
        memory = request.memory_bytes + _INPUTS_KEPT * os.fstat(descriptors[0]).st_size
        stderr = StandardError(request.kind == jobs.RUN_REPORTING)
        log = DeniedCalls(self.asking_filter) if self.reports and self.filter is not None else None
        try:
            pid = os.fork()
        except OSError as failure:
            stderr.close()
            return Reply(request.number, jobs.FAILED, 0, 0.0, error=f"fork: {failure}")
        if pid == 0:
            stderr.take()
            self.child(request, memory, descriptors, log)
        stderr.leave()
        end = ChildEnd(pid)
        usage = ChildUsage(end, self.open_thread)
        if log is not None:
            log.begin(usage)
        listener = self.threads if log is None else log
        reason, wall, waited = self.watch(usage, request, self.own_resident + memory, stderr, listener)
        _, status, used = os.wait4(pid, 0)
        end.close()
        denied = jobs.NO_LOG if log is None else log.close()
        stderr.read()
        stderr.close()
        cpu = used.ru_utime + used.ru_stime
        note = self.note()
        signalled = os.WIFSIGNALED(status)
        value = os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status)
        error = ""
        if not note.startswith(_READY) and reason is None and not (signalled and value == signal.SIGKILL):
            reason, value, error = jobs.FAILED, status, note.decode() or "child not ready"
        elif self.own_resident and used.ru_maxrss << 10 > self.own_resident + memory:
            reason = jobs.MEMORY_LIMIT  # the peak was between two samples; the verdict must not depend on their times
        elif signalled and value == signal.SIGKILL and reason is None and cpu >= request.cpu_seconds:
            reason = jobs.CPU_LIMIT  # the kernel's own limit, if this process was late
        if reason is None:
            reason = jobs.SIGNALLED if signalled else jobs.EXITED
        elif reason == jobs.SIGNALLED:
            value = signal.SIGSYS
        peak = max(0, used.ru_maxrss - (self.own_resident >> 10))
        text = stderr.start.decode("utf-8", "replace")
        return Reply(request.number, reason, value, cpu, wall, peak, waited, error, text, denied)

    def note(self) -> bytes:
        """The child's message about its lockdown, written before it saw the program."""
        try:
            return os.read(self.ready_read, 4096)
        except BlockingIOError:
            return b""

    def watch(
        self,
        usage: ChildUsage,
        request: Request,
        resident_limit: int,
        stderr: StandardError,
        listener: lockdown.Listener | None,
    ) -> _Ending:
        """Waits for the child's end; kills it at a limit or on request.

        Time in which a child was ready to run but had no core does not count towards its wall limit. A child that
        computes at its wall limit, but had less than its share of a core so far, continues to its CPU limit: on a
        virtual machine, the host may take the core, and the kernel does not count that time. In both cases the child is
        killed after ``longest_seconds``.
        """
        end = usage.end
        pid, ended = end.pid, end.descriptor
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        if stderr.reader >= 0:
            poll.register(stderr.reader, select.POLLIN)
        if listener is not None and listener.descriptor >= 0:
            poll.register(listener.descriptor, select.POLLIN)
        clock = (~pid << 3) | 2  # id of the CPU clock of that process
        looked = started = end.started
        deadline = started + request.wall_seconds
        pause = self.pause(request.memory_bytes)
        look = started + pause
        left = left_then = request.cpu_seconds
        reason = None
        while True:
            wait = min(left, deadline - time.monotonic(), look - time.monotonic())
            events = poll.poll(max(1, int(wait * 1000) + 1))
            ready = {descriptor for descriptor, _ in events}
            now = time.monotonic()
            if ended in ready and end.reached():
                return _Ending(None, now - started, usage.waited() if now - started > _POLL_SECONDS else 0.0)
            if stderr.reader in ready and not stderr.read():
                poll.unregister(stderr.reader)
            if listener is not None and listener.descriptor in ready:
                listener.answer(usage)
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
            if reason is None and now >= look:
                reason, pause = self.look(usage, resident_limit)
                look = now + pause
            if reason is None and now >= deadline:
                computes = left_then - left >= _COMPUTES * (now - looked)
                held_up = request.cpu_seconds - left < _HAD_A_CORE * (now - started)
                lacking = request.wall_seconds + usage.waited() - (now - started)
                if now >= started + request.longest_seconds or not (lacking > 0 or (computes and held_up)):
                    reason = jobs.WALL_LIMIT
                looked, left_then = now, left
                deadline = now + (min(lacking, _LOOK_SECONDS) if lacking > 0 else _LOOK_SECONDS)
            if reason is not None:
                waited = usage.waited()
                os.kill(pid, signal.SIGKILL)
                return _Ending(reason, now - started, waited)

    def look(self, usage: ChildUsage, resident_limit: int) -> tuple[int | None, float]:
        """Samples a child's memory and threads. Returns (why it must end or None, seconds until the next sample)."""
        if not self.own_resident:
            return None, _POLL_SECONDS
        usage.waited()  # includes threads that may have ended at the next sample
        try:
            resident, threads = usage.status()
        except OSError:
            return None, _POLL_SECONDS  # it has just ended
        if resident > resident_limit:
            return jobs.MEMORY_LIMIT, 0.0
        if self.threads is None and self.filter is not None and threads > lockdown.THREADS:
            return jobs.SIGNALLED, 0.0
        return None, self.pause(resident_limit - resident)

    def pause(self, room: int) -> float:
        """A time in seconds in which a child cannot fill ``room`` bytes."""
        longest = _POLL_SECONDS if self.threads is not None or self.filter is None else _UNWATCHED_POLL_SECONDS
        return min(max(room / _FILL_BYTES_PER_SECOND, _SHORTEST_POLL_SECONDS), longest)

    def child(self, request: Request, memory: int, descriptors: list[int], log: DeniedCalls | None) -> None:
        """The forked child: locks itself down, runs the job and exits. Never returns."""
        status = 1
        try:
            lockdown.die_with_parent()
            job, inputs = _take(descriptors, request.kind == jobs.RUN_REPORTING)
            space = self.own_memory + memory + (_RESERVED_BYTES if self.own_resident else 0)
            lockdown.limit_resources(int(request.cpu_seconds) + 2, space, request.file_bytes)
            self.control.close()
            ChildEnd.leave()
            if b"native_id" in job.code:
                forks.renumber()
            os.close(self.ready_read)
            if self.threads is not None:
                os.close(self.threads.descriptor)
            if self.filter is not None and job.kills:
                denials.watch()
                self.killing_filter.install()
            elif self.filter is not None and not (log is not None and log.install()):
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


def _take(descriptors: list[int], keeps_stderr: bool) -> tuple[Job, list[int]]:
    """Reads the job file and duplicates every descriptor to its number.

    Numbers 0 to 2 are the standard streams. Descriptors that the program need not see have high numbers, so that the
    first file that it opens is 3, as in a plain process. /dev/null is opened again, because all holders of a descriptor
    share its flags.
    """
    source, output, result = descriptors
    size = os.fstat(source).st_size
    data = bytearray()
    while len(data) < size:
        data += os.pread(source, size - len(data), len(data))
    os.close(source)
    job = Job.unpack(bytes(data))
    real = job.mode == jobs.FAITHFUL
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    if not keeps_stderr:
        os.dup2(null, 2)
    os.dup2(null, devnull.NULL_FD)
    os.dup2(output if real else null, 1)
    os.dup2(output if real else null, OUTPUT_FD)
    os.dup2(result, RESULT_FD)
    for descriptor in (null, output, result):
        os.close(descriptor)
    inputs: list[int] = []
    for text in job.inputs if real else ():
        stdin = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
        if job.kind == jobs.SCRIPT:
            view = memoryview(text)
            while view:
                view = view[os.write(stdin, view) :]
            os.lseek(stdin, 0, os.SEEK_SET)
        fcntl.fcntl(stdin, fcntl.F_ADD_SEALS, _SEALS)  # sealed, because its memory counts towards no limit
        inputs.append(os.dup2(stdin, _INPUT_FD + len(inputs)))
        os.close(stdin)
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


def _own_resident() -> int:
    """Resident memory of this process in bytes; 0 without /proc, in which case the address space is limited instead."""
    try:
        return resident_bytes()
    except (OSError, KeyError):
        return 0
