"""A log of the system calls that one child is denied, for reports on single tests.

The child's filter asks its worker instead of denying calls itself (``SECCOMP_RET_USER_NOTIF``); the worker logs the
call and denies it. A process can have only one such listener, so a worker that logs calls has no ``ThreadWatch``: here
new threads ask the same listener.
"""

from __future__ import annotations

import _thread
import errno
import os
import socket
import time

from . import jobs, lockdown, seccomp
from .lockdown import HasThreads

_DISTINCT = 40  # maximum number of distinct calls in the log
_START_SECONDS = 10.0
_PAUSE_SECONDS = 0.0002
_LISTENS, _DEAF = b"y", b"n"
# denied calls that programs try, in the format of ``seccomp.ALLOWED``
DENIED = """
    vfork 58 -; fork 57 -; execve 59 221; execveat 322 281; kill 62 129; tkill 200 130; rt_sigqueueinfo 129 138;
    rt_tgsigqueueinfo 297 240; pidfd_send_signal 424 424; pidfd_open 434 434; pidfd_getfd 438 438; socket 41 198;
    connect 42 203; bind 49 200; listen 50 201; accept 43 202; accept4 288 242; sendmsg 46 211; recvmsg 47 212;
    sendmmsg 307 269; shutdown 48 210; setsockopt 54 208; getsockopt 55 209; getsockname 51 204; getpeername 52 205;
    ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; prctl 157 167; seccomp 317 277; bpf 321
    280; unshare 272 97; setns 308 268; mount 165 40; umount2 166 39; chroot 161 51; pivot_root 155 41; unlink 87 -;
    unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276; mkdir 83 -; mkdirat 258 34; rmdir 84 -; link
    86 -; linkat 265 37; symlink 88 -; symlinkat 266 36; chmod 90 -; fchmod 91 52; fchmodat 268 53; chown 92 -;
    fchown 93 55; fchownat 260 54; truncate 76 45; ftruncate 77 46; fallocate 285 47; creat 85 -; openat2 437 437;
    mknodat 259 33; utimensat 280 88; chdir 80 49; fchdir 81 50; memfd_create 319 279; shmget 29 194; shmat 30 196;
    msgget 68 186; semget 64 190; mq_open 240 180; io_uring_setup 425 425; userfaultfd 323 282; perf_event_open 298
    241; keyctl 250 219; add_key 248 217; setuid 105 146; setgid 106 144; setgroups 116 159; setresuid 117 147;
    capset 126 91; setrlimit 160 164; sched_setaffinity 203 122; setpriority 141 140; setsid 112 157; setpgid 109
    154; timer_create 222 107; timerfd_create 283 85; eventfd2 290 19; signalfd4 289 74; inotify_init1 294 26;
    fanotify_init 300 262; sendfile 40 71; splice 275 76; wait4 61 260; waitid 247 95; personality 135 92;
    landlock_create_ruleset 444 444; reboot 169 142
"""
_NUMBERS = seccomp.numbers(f"{DENIED};{seccomp.ALLOWED}", lockdown.MACHINE)
_NAMES = {number: name for name, number in _NUMBERS.items()}


class DeniedCalls(lockdown.Listener):
    """The log of one child. Before the program starts, call ``install`` in the child and ``begin`` in the worker."""

    def __init__(self, log_filter: lockdown.Filter) -> None:
        """Must be called before the fork."""
        super().__init__(-1)
        self._filter = log_filter
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._calls: dict[str, int] = {}

    def install(self) -> bool:
        """In the child: installs the filter on this thread. Returns False if the kernel does not allow a listener.

        Raises:
          OSError: if the worker did not receive the listener.
        """
        self._ours.close()
        # the only thread without the filter: it sends the listener to the worker; the program starts when it has ended
        lock = _thread.allocate_lock()
        lock.acquire()
        _thread.start_new_thread(self._pass_on, (lock,))
        try:
            self.descriptor = self._filter.install(listens=True)
        except OSError:  # there is another listener, or none is supported, as in gVisor
            self.descriptor = -1
        lock.release()
        answer = self._theirs.recv(1)
        self._theirs.close()
        if not answer:
            raise OSError("the worker did not receive the listener")
        return answer == _LISTENS

    def _pass_on(self, lock: _thread.LockType) -> None:
        lock.acquire()
        if self.descriptor < 0:
            self._theirs.send(_DEAF)
            return
        socket.send_fds(self._theirs, [_LISTENS], [self.descriptor])
        os.close(self.descriptor)

    def begin(self, child: HasThreads) -> None:
        """In the worker: receives the listener, and lets the child continue once it has a single thread."""
        self._theirs.close()
        self._ours.settimeout(_START_SECONDS)
        try:
            answer, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1)
            self.descriptor = descriptors[0] if descriptors else -1
            deadline = time.monotonic() + _START_SECONDS
            while child.status()[1] > 1:
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(_PAUSE_SECONDS)
            self._ours.send(answer)
        except OSError:  # the child has ended, or hangs
            pass
        self._ours.close()

    def decide(self, number: int, arguments: tuple[int, ...], child: HasThreads) -> int:
        """Counts threads; logs and denies all other calls."""
        if _NAMES.get(number) == "clone" and seccomp.is_thread(arguments[0]):
            return super().decide(number, arguments, child)
        text = f"{_NAMES.get(number, f'call {number}')}({', '.join(map(_shown, arguments[:3]))})"
        if text in self._calls or len(self._calls) < _DISTINCT:
            self._calls[text] = self._calls.get(text, 0) + 1
        return errno.EPERM

    def close(self) -> str:
        """In the worker, at the end: returns one call per line, or ``jobs.NO_LOG`` without a listener."""
        if self.descriptor < 0:
            return jobs.NO_LOG
        os.close(self.descriptor)
        return "\n".join(text if count == 1 else f"{text} x{count}" for text, count in self._calls.items())


def _shown(argument: int) -> str:
    if argument >> 32:
        return "..."  # a pointer
    return str(argument - (1 << 32) if argument >> 31 else argument)
