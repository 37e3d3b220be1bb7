"""The system-call filter of a child, as classic BPF, for x86-64 and aarch64.

The filter is an allowlist of the calls that a Python program needs to compute, read its inputs and write its output. It
excludes fork, exec, sockets that can reach another process, signals to another process, opening files for writing, and
new limits except for the stack. All other calls fail with EPERM; ``clone3`` fails with ENOSYS, so that the C library
falls back to ``clone``, whose flags the filter can inspect.

The numbers come from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

X86_64 = "x86_64"
AARCH64 = "aarch64"
_AUDIT_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}

# allowed calls: name, number on x86-64, number on aarch64 ("-" if the architecture lacks the call)
ALLOWED = """
    read 0 63; write 1 64; open 2 -; close 3 57; stat 4 -; fstat 5 80; lstat 6 -; poll 7 -; lseek 8 62; mmap 9 222;
    mprotect 10 226; munmap 11 215; brk 12 214; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139;
    ioctl 16 29; pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; access 21 -; select 23 -; sched_yield 24
    124; pipe 22 -; mremap 25 216; madvise 28 233; dup 32 23; dup2 33 -; pause 34 -; nanosleep 35 101; getitimer 36
    102; alarm 37 -; setitimer 38 103; getpid 39 172; sendto 44 206; recvfrom 45 207; socketpair 53 199; clone 56
    220; exit 60 93; uname 63 160; fcntl 72 25; getcwd 79 17; readlink 89 -; gettimeofday 96 169; getrlimit 97 163;
    getrusage 98 165; sysinfo 99 179; times 100 153; getuid 102 174; getgid 104 176; geteuid 107 175; getegid 108
    177; getppid 110 173; sigaltstack 131 132; gettid 186 178; time 201 -; futex 202 98; sched_getaffinity 204 123;
    getdents64 217 61; epoll_wait 232 -; epoll_ctl 233 21; restart_syscall 219 128; fadvise64 221 223; clock_gettime
    228 113; clock_getres 229 114; clock_nanosleep 230 115; exit_group 231 94; tgkill 234 131; openat 257 56;
    newfstatat 262 79; readlinkat 267 78; faccessat 269 48; pselect6 270 72; epoll_pwait 281 22; epoll_create1 291
    20; pipe2 293 59; ppoll 271 73; set_robust_list 273 99; dup3 292 24; prlimit64 302 261; getcpu 309 168;
    getrandom 318 278; membarrier 324 283; statx 332 291; rseq 334 293; clone3 435 435; faccessat2 439 439
"""


def numbers(table: str, machine: str) -> dict[str, int]:
    """The numbers of a table's calls on a machine, without calls that it lacks."""
    rows = (row.split() for row in table.split(";"))
    found = {row[0]: row[1 if machine == X86_64 else 2] for row in rows}
    return {name: int(value) for name, value in found.items() if value != "-"}


_LOAD, _JEQ, _JGE, _JSET, _RET, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ALLOW = 0x7FFF0000
KILLS = 0x80000000  # kills the process
ASKS = 0x7FC00000  # asks the listener
DENIES = 0x00050000 | errno.EPERM
_ENOSYS = 0x00050000 | errno.ENOSYS
_NR, _ARCH, _ARGS = 0, 4, 16

_OPEN_FOR_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # WRONLY RDWR CREAT TRUNC TMPFILE
_CLONE_FILES, _CLONE_THREAD = 0x00000400, 0x00010000
_CLONE_NEW = 0x7E020000 | 0x00000080  # all namespace flags: cgroup uts ipc user pid net, mount, time
_FCNTL = (0, 1, 2, 3, 4, 1030)  # DUPFD GETFD SETFD GETFL SETFL DUPFD_CLOEXEC
_IOCTL = (0x5401, 0x5421, 0x5450, 0x5451)  # TCGETS (isatty), FIONBIO, FIONCLEX, FIOCLEX
_RLIMIT_STACK = 3
_SIGKILL = 9
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF


class Instruction(NamedTuple):
    """One classic BPF instruction; jump distances are relative to the next one."""

    code: int
    if_true: int
    if_false: int
    k: int


def is_thread(flags: int) -> bool:
    """Whether these ``clone`` flags start a thread that a program may start."""
    return bool(flags & _CLONE_THREAD and flags & _CLONE_FILES and not flags & _CLONE_NEW)


def build(machine: str, pid: int, denial: int = DENIES) -> bytes:
    """The filter program for one process.

    Args:
      machine: ``x86_64`` or ``aarch64``.
      pid: Id of the process, the only target allowed for ``tgkill`` (used by ``abort``). SIGKILL is denied even for
        this target, so that a SIGKILL always comes from outside the program.
      denial: The effect of a denied call. ``DENIES``: the call fails with EPERM. ``KILLS``: the process is killed with
        SIGSYS, except for opening a file, because /dev/null is handled separately. ``ASKS``: a listener decides, also
        about new threads.

    Returns:
      An array of ``struct sock_filter``.
    """
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions(machine, pid, denial))


def instructions(machine: str, pid: int, denial: int = DENIES) -> list[Instruction]:
    """The filter as a list of instructions (see ``build``)."""
    program = [
        Instruction(_LOAD, 0, 0, _ARCH),
        Instruction(_JEQ, 1, 0, _AUDIT_ARCH[machine]),
        Instruction(_RET, 0, 0, KILLS),
        Instruction(_LOAD, 0, 0, _NR),
    ]
    if machine == X86_64:  # the x32 interface has the same architecture name
        program += [Instruction(_JGE, 0, 1, 0x40000000), Instruction(_RET, 0, 0, DENIES)]
    guarded = {
        "open": _flags_clear(1, _OPEN_FOR_WRITING),
        "openat": _flags_clear(2, _OPEN_FOR_WRITING),
        "fcntl": _one_of(1, _FCNTL),
        "ioctl": _one_of(1, _IOCTL),
        "tgkill": _own_signal(pid),
        "sendto": _no_address(),
        "prlimit64": _reads_or_stack(),
        "socketpair": _stream_pair(),
        "clone": _thread_only(),
        "clone3": [Instruction(_RET, 0, 0, _ENOSYS)],
    }
    listed = numbers(ALLOWED, machine)
    for name, body in guarded.items():
        value = listed.get(name)
        if value is not None:
            if denial == ASKS or name not in ("open", "openat"):
                body = _denying(body, denial)
            if denial == ASKS and name == "clone":
                body[-1] = Instruction(_RET, 0, 0, ASKS)
            program += [Instruction(_JEQ, 0, len(body), value), *body]
    allowed = {value for name, value in listed.items() if name not in guarded}
    # a search tree instead of a list: for each child, the kernel evaluates the program once for each existing call
    borders = sorted(value for value in allowed | {each + 1 for each in allowed} if _flips(value, allowed))
    return program + _denying(_search(borders, False), denial)


def _denying(body: list[Instruction], denial: int) -> list[Instruction]:
    """The same instructions, with the result ``denial`` instead of EPERM."""
    return [each._replace(k=denial) if each == (_RET, 0, 0, DENIES) else each for each in body]


def _flips(value: int, allowed: set[int]) -> bool:
    return (value in allowed) != (value - 1 in allowed)


def _search(borders: list[int], allowed: bool) -> list[Instruction]:
    """Decides by the number of the call: ``allowed`` holds below the first border, and flips at each (ascending)."""
    if not borders:
        return [Instruction(_RET, 0, 0, _ALLOW if allowed else DENIES)]
    middle = len(borders) // 2
    before = _search(borders[:middle], allowed)
    after = _search(borders[middle + 1 :], allowed ^ (middle % 2 == 0))
    return [Instruction(_JGE, len(before), 0, borders[middle]), *before, *after]


def thread_watch(machine: str) -> bytes:
    """A worker's own filter, which its children inherit: each new thread asks the worker first.

    Without it, one child could use up all process ids of the machine: a thread need not use memory of the child's
    address space, and the limit on processes does not apply to root. The filter of ``instructions`` still decides which
    flags ``clone`` may have.
    """
    clone = numbers(ALLOWED, machine)["clone"]
    program = [
        Instruction(_LOAD, 0, 0, _ARCH),
        Instruction(_JEQ, 0, 5, _AUDIT_ARCH[machine]),
        Instruction(_LOAD, 0, 0, _NR),
        Instruction(_JEQ, 0, 3, clone),
        Instruction(_LOAD, 0, 0, _low(0)),
        Instruction(_JSET, 0, 1, _CLONE_THREAD),
        Instruction(_RET, 0, 0, ASKS),
        Instruction(_RET, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _low(argument: int) -> int:
    return _ARGS + 8 * argument


def _flags_clear(argument: int, mask: int) -> list[Instruction]:
    return [
        Instruction(_LOAD, 0, 0, _low(argument)),
        Instruction(_JSET, 0, 1, mask),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [Instruction(_JEQ, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [
        Instruction(_LOAD, 0, 0, _low(argument)),
        *tests,
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _reads_or_stack() -> list[Instruction]:
    """Allows reading any limit, and setting the stack limit of this process, as deeply recursive programs do."""
    return [
        Instruction(_LOAD, 0, 0, _low(2)),
        Instruction(_JEQ, 0, 2, 0),
        Instruction(_LOAD, 0, 0, _low(2) + 4),
        Instruction(_JEQ, 5, 0, 0),
        Instruction(_LOAD, 0, 0, _low(0)),
        Instruction(_JEQ, 0, 2, 0),
        Instruction(_LOAD, 0, 0, _low(1)),
        Instruction(_JEQ, 1, 0, _RLIMIT_STACK),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _stream_pair() -> list[Instruction]:
    """Allows a pair of local stream sockets, which asyncio uses. Unlike datagrams, they reach no other process."""
    return [
        Instruction(_LOAD, 0, 0, _low(0)),
        Instruction(_JEQ, 0, 3, _AF_UNIX),
        Instruction(_LOAD, 0, 0, _low(1)),
        Instruction(_AND, 0, 0, _SOCK_TYPE_MASK),
        Instruction(_JEQ, 1, 0, _SOCK_STREAM),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _own_signal(pid: int) -> list[Instruction]:
    return [
        Instruction(_LOAD, 0, 0, _low(2)),
        Instruction(_JEQ, 2, 0, _SIGKILL),
        Instruction(_LOAD, 0, 0, _low(0)),
        Instruction(_JEQ, 1, 0, pid),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _no_address() -> list[Instruction]:
    """Allows sending without an address, that is, on a connected socket. asyncio wakes its event loop in this way."""
    return [
        Instruction(_LOAD, 0, 0, _low(4)),
        Instruction(_JEQ, 0, 2, 0),
        Instruction(_LOAD, 0, 0, _low(4) + 4),
        Instruction(_JEQ, 1, 0, 0),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]


def _thread_only() -> list[Instruction]:
    """Allows threads that share the descriptor table. A separate table could hold socket buffers beyond all limits."""
    return [
        Instruction(_LOAD, 0, 0, _low(0)),
        Instruction(_JSET, 2, 0, _CLONE_NEW),
        Instruction(_JSET, 0, 1, _CLONE_THREAD),
        Instruction(_JSET, 1, 0, _CLONE_FILES),
        Instruction(_RET, 0, 0, DENIES),
        Instruction(_RET, 0, 0, _ALLOW),
    ]
