"""Removes rights of a worker and its children. Uses ctypes, so there is no compiled code and no dependency.

When it starts, a worker gives up privileges, file access (landlock) and, for some tiers, its namespaces; its children
inherit this. Each child adds resource limits and the system-call filter before it reads the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
from collections.abc import Iterable
from typing import Any, Protocol

from . import seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9
_SYS_CAPSET = {seccomp.X86_64: 126, seccomp.AARCH64: 91}
_SYS_SECCOMP = {seccomp.X86_64: 317, seccomp.AARCH64: 277}
_SECCOMP_SET_MODE_FILTER, _SECCOMP_NEW_LISTENER, _SECCOMP_CONTINUE = 1, 1 << 3, 1
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_BYTES = 0xC0502100, 0xC0182101, 80  # linux/seccomp.h
_NOTIF = struct.Struct("<QIIiIQ6Q")  # struct seccomp_notif
THREADS = 128  # maximum number of concurrent threads of one child
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_LANDLOCK_READ_FILE, _LANDLOCK_READ_DIR = 1 << 2, 1 << 3
# rights known to each version of the landlock interface: files, network (4), scopes (6)
_LANDLOCK_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_LANDLOCK_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # execute, write, read, truncate, ioctl
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
MACHINE = {"arm64": seccomp.AARCH64}.get(platform.machine(), platform.machine())


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, first: int, second: int = 0) -> int:
    return _libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0))


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent dies."""
    _check(_prctl(_PR_SET_PDEATHSIG, _SIGKILL), "prctl(PDEATHSIG)")


def not_dumpable() -> None:
    """Hides /proc/PID of this process from other processes of the same user, and forbids tracing it."""
    _check(_prctl(_PR_SET_DUMPABLE, 0), "prctl(DUMPABLE)")


def no_new_privileges() -> None:
    """Disables set-uid programs and file capabilities from now on."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl(NO_NEW_PRIVS)")


def drop_capabilities() -> None:
    """Gives up every capability permanently: root is then an ordinary owner of root's files."""
    for capability in range(64):
        if _prctl(_PR_CAPBSET_DROP, capability) < 0:
            break  # beyond the last capability, or no right to drop them, in which case there are none
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    _check(_libc.syscall(_SYS_CAPSET[MACHINE], header, data), "capset")


def landlock_version() -> int:
    """Version of the kernel's landlock interface, 0 if there is none."""
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, int(version))


def restrict_files(readable: Iterable[str], writable: Iterable[str] = ()) -> None:
    """Restricts the calling thread, and everything it starts, to some files.

    It also denies TCP and abstract sockets of other processes, if the kernel supports that.

    Args:
      readable: Files, and folders with everything below them. Missing ones are ignored.
      writable: Files with all access rights.

    Raises:
      OSError: if the kernel has no landlock.
    """
    version = landlock_version()
    if version < 1:
        raise OSError("the kernel has no landlock (Linux 5.13 or newer, enabled at boot)")
    files = _LANDLOCK_FILES[max(known for known in _LANDLOCK_FILES if known <= version)]
    attributes = struct.pack("<QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(
        _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)), "landlock_create_ruleset"
    )
    try:
        for path in readable:
            _allow(ruleset, path, _LANDLOCK_READ_FILE | _LANDLOCK_READ_DIR)
        for path in writable:
            _allow(ruleset, path, files)
        _check(_libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # missing: nothing to allow
    if not os.path.isdir(path):
        rights &= _LANDLOCK_OF_FILES
    rule = struct.pack("<Qi", rights, descriptor)
    try:
        _check(
            _libc.syscall(_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)),
            f"landlock_add_rule({path})",
        )
    finally:
        os.close(descriptor)


def first_to_go() -> None:
    """Makes the kernel kill this process and its children first when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("1000")


def unshare_namespaces() -> None:
    """Moves this process to new user, network, IPC, UTS and mount namespaces, its children to a new PID namespace."""
    flags = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWNS | _CLONE_NEWPID
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(flags), "unshare(user, net, ipc, uts, mount, pid)")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as handle:
            handle.write(text)


def limit_resources(cpu_seconds: int, memory_bytes: int, output_bytes: int) -> None:
    """Sets the hard limits of a child."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, output_bytes),
    ):
        _limit(kind, value)


def limit_worker() -> None:
    """Sets the limits that are the same for every child."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    with contextlib.suppress(ValueError):  # gVisor does not allow this limit, but has no message queues either
        _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_NOFILE, 256)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


class HasThreads(Protocol):
    """A process, such as ``usage.ChildUsage``."""

    def status(self) -> tuple[int, int]:
        """Returns (resident bytes, number of threads)."""


class Listener:
    """Decides about the system calls that a filter reports."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def answer(self, child: HasThreads) -> None:
        """Receives and answers one request: the call continues, or fails."""
        question = bytearray(_NOTIF_BYTES)
        try:
            fcntl.ioctl(self.descriptor, _NOTIF_RECV, question)
            _, _, _, number, _, _, *arguments = _NOTIF.unpack(question)
            error = self.decide(number, tuple(arguments), child)
            flags = 0 if error else _SECCOMP_CONTINUE
            fcntl.ioctl(self.descriptor, _NOTIF_SEND, struct.pack("<8sqiI", question[:8], 0, -error, flags))
        except OSError as gone:
            if gone.errno != errno.ENOENT:  # the calling process was killed, or a signal interrupted its wait
                raise

    def decide(self, number: int, arguments: tuple[int, ...], child: HasThreads) -> int:
        """Returns 0, or the error with which the call fails: here EAGAIN if there are too many threads."""
        try:
            return 0 if child.status()[1] < THREADS else errno.EAGAIN
        except OSError:
            return errno.EAGAIN


class ThreadWatch(Listener):
    """Decides about each new thread of a child. A worker creates it once, for all its children."""

    def __init__(self) -> None:
        if MACHINE not in _SYS_SECCOMP:
            raise OSError(f"no system-call filter for {MACHINE}")
        program = ctypes.create_string_buffer(seccomp.thread_watch(MACHINE))
        super().__init__(_listen(struct.pack("<HxxxxxxQ", (len(program) - 1) // 8, ctypes.addressof(program))))


def _listen(program: Any) -> int:
    """Installs a filter on this thread. Returns the descriptor on which its requests arrive."""
    flags = ctypes.c_uint(_SECCOMP_NEW_LISTENER)
    call = ctypes.c_uint(_SECCOMP_SET_MODE_FILTER)
    return _check(_libc.syscall(_SYS_SECCOMP[MACHINE], call, flags, program), "seccomp(NEW_LISTENER)")


class Filter:
    """The system-call filter. The worker builds it once; ``install`` is the last step of a child's lockdown."""

    def __init__(self, denial: int = seccomp.DENIES) -> None:
        if MACHINE not in (seccomp.X86_64, seccomp.AARCH64):
            raise OSError(f"no system-call filter for {MACHINE}")
        if _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER) == 0 or ctypes.get_errno() != errno.EFAULT:
            raise OSError("the kernel has no system-call filters (seccomp)")
        self._marker = 0x5EC0_ABCD
        template = seccomp.build(MACHINE, self._marker, denial)
        self._position = template.index(struct.pack("<I", self._marker))
        self._program = ctypes.create_string_buffer(template, len(template))
        self._fprog = ctypes.create_string_buffer(
            struct.pack("<HxxxxxxQ", len(template) // 8, ctypes.addressof(self._program))
        )

    def install(self, listens: bool = False) -> int:
        """Installs the filter on this thread and the threads it starts. It cannot be removed.

        Returns:
          The descriptor of the listener if ``listens``, else 0.
        """
        struct.pack_into("<I", self._program, self._position, os.getpid())
        if listens:
            return _listen(self._fprog)
        return _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(self._fprog)), "prctl(SECCOMP)")
