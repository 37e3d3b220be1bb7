"""The system-call filters for both architectures, run by a small interpreter of classic BPF."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path

import pytest

from dreamprm_jax.sandbox.inside import denied_calls, seccomp

PID = 4711
ALLOW, EPERM, ENOSYS, KILL, ASK = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000, 0x7FC00000
ARCHITECTURE = {seccomp.X86_64: 0xC000003E, seccomp.AARCH64: 0xC00000B7}
MACHINES = list(ARCHITECTURE)
HEADERS = {
    seccomp.X86_64: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    seccomp.AARCH64: Path("/usr/include/asm-generic/unistd.h"),
}


def decide(machine: str, call: int, *arguments: int, architecture: int | None = None, watch: bool = False) -> int:
    """The kernel's decision on a call, by the child's filter or, with ``watch``, by the worker's filter for threads."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    arch = ARCHITECTURE[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", call, arch, 0, *padded)
    program = compiled(machine, watch)
    accumulator = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return int(k)
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if holds else if_false


@functools.cache
def compiled(machine: str, watch: bool) -> list[tuple[int, int, int, int]]:
    data = seccomp.thread_watch(machine) if watch else seccomp.build(machine, PID)
    return [struct.unpack_from("<HBBI", data, at) for at in range(0, len(data), 8)]


def call(machine: str, name: str) -> int:
    return seccomp.numbers(seccomp.ALLOWED, machine)[name]


@pytest.mark.parametrize("machine", MACHINES)
def test_jumps_stay_inside(machine: str) -> None:
    program = seccomp.instructions(machine, PID)
    for position, instruction in enumerate(program):
        if instruction.code != 0x06:
            assert position + 1 + max(instruction.if_true, instruction.if_false) < len(program)
        assert max(instruction.if_true, instruction.if_false) < 256
    assert program[-1].code == 0x06


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_program_needs_is_allowed(machine: str) -> None:
    for name in ("read", "write", "mmap", "brk", "futex", "exit_group", "getrandom", "clock_gettime", "pipe2"):
        assert decide(machine, call(machine, name)) == ALLOW
    assert decide(machine, call(machine, "openat"), 0, 0, 0o2000000) == ALLOW  # read only, close on exec
    assert decide(machine, call(machine, "clone"), 0x3D0F00) == ALLOW  # a thread
    assert decide(machine, call(machine, "tgkill"), PID, PID, 6) == ALLOW
    assert decide(machine, call(machine, "prlimit64"), 0, 7, 0, 1) == ALLOW  # reads a limit
    assert decide(machine, call(machine, "prlimit64"), 0, 3, 16, 0) == ALLOW  # sets its own stack limit
    assert decide(machine, call(machine, "socketpair"), 1, 1 | 0o2000000, 0) == ALLOW
    assert decide(machine, call(machine, "clone3")) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_what_reaches_outside_is_denied(machine: str) -> None:
    for flags in (1, 2, 0o100, 0o1000, 0o101, 0o20200000):
        assert decide(machine, call(machine, "openat"), 0, 0, flags) == EPERM
    for flags in (17, 0x4111, 0x10000000, 0x10010F00, 0x20010F00, 0x00030F00):
        assert decide(machine, call(machine, "clone"), flags) == EPERM
    assert decide(machine, call(machine, "clone"), 0x3D0F00 & ~0x400) == EPERM  # a thread with its own descriptors
    assert decide(machine, call(machine, "tgkill"), PID + 1, PID + 1, 6) == EPERM
    assert decide(machine, call(machine, "tgkill"), PID, PID, 9) == EPERM  # looks like the kernel's SIGKILL
    for address in (1, 1 << 32):
        assert decide(machine, call(machine, "sendto"), 3, 0, 1, 0, address, 16) == EPERM
    assert decide(machine, call(machine, "sendto"), 3, 0, 1, 0, 0, 0) == ALLOW
    assert decide(machine, call(machine, "prlimit64"), 0, 7, 1 << 32, 0) == EPERM
    for kind in (0, 1, 2, 4, 6, 7, 9):
        assert decide(machine, call(machine, "prlimit64"), 0, kind, 16, 0) == EPERM
    assert decide(machine, call(machine, "prlimit64"), PID + 1, 3, 16, 0) == EPERM
    assert decide(machine, call(machine, "fcntl"), 0, 8, 1) == EPERM  # F_SETOWN
    assert decide(machine, call(machine, "ioctl"), 0, 0x5412, 0) == EPERM  # TIOCSTI
    assert decide(machine, call(machine, "socketpair"), 1, 2, 0) == EPERM
    assert decide(machine, call(machine, "socketpair"), 2, 1, 0) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_the_worker_is_asked_about_threads_only(machine: str) -> None:
    assert decide(machine, call(machine, "clone"), 0x3D0F00, watch=True) == ASK
    assert decide(machine, call(machine, "clone"), 17, watch=True) == ALLOW  # the worker's own fork
    assert decide(machine, call(machine, "read"), 0x10000, watch=True) == ALLOW
    # The other filter kills this call.
    assert decide(machine, call(machine, "clone"), 0x3D0F00, architecture=1, watch=True) == ALLOW


def test_denied_calls_by_number() -> None:
    x86 = {"fork": 57, "vfork": 58, "execve": 59, "kill": 62, "socket": 41, "connect": 42, "ptrace": 101, "unlink": 87}
    x86 |= {"io_uring_setup": 425, "openat2": 437, "memfd_create": 319, "setrlimit": 160, "bpf": 321, "creat": 85}
    arm = {"execve": 221, "kill": 129, "socket": 198, "connect": 203, "ptrace": 117, "unlinkat": 35, "mkdirat": 34}
    arm |= {"io_uring_setup": 425, "openat2": 437, "memfd_create": 279, "setrlimit": 164, "bpf": 280}
    for machine, calls in ((seccomp.X86_64, x86), (seccomp.AARCH64, arm)):
        for name, value in calls.items():
            assert decide(machine, value) == EPERM, (machine, name)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_that_is_not_listed_is_denied(machine: str) -> None:
    listed = set(seccomp.numbers(seccomp.ALLOWED, machine).values())
    for value in range(600):
        if value not in listed:
            assert decide(machine, value) == EPERM


def test_other_interfaces_of_the_machine_are_closed() -> None:
    assert decide(seccomp.X86_64, 0, architecture=0x40000003) == KILL  # 32-bit calls
    assert decide(seccomp.X86_64, 0x40000000) == EPERM  # x32 calls
    assert decide(seccomp.AARCH64, 63, architecture=0x40000028) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernel_headers(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    numbers = {name: int(value) for name, value in found}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for table in (seccomp.ALLOWED, denied_calls.DENIED):
        listed = seccomp.numbers(table, machine)
        for name in (row.split()[0] for row in table.split(";")):
            assert listed.get(name) == numbers.get(name), name
