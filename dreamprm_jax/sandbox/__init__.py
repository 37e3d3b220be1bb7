"""Runs untrusted programs and judges them.

    with Judge(mode="faithful", tier="PORTABLE") as judge:
        for result in judge.evaluate(JudgeTask(key, code, tests) for ...):
            ...

**Processes.** The judge (``judge``, ``pool``, ``plan``, ``grading``) lives in the caller's process and starts a worker
for each core: a fresh interpreter that runs ``inside.zygote``, never forked from the caller, so the caller may hold
jax, threads and secrets. A worker forks one child for each program. Program and inputs go to the child in a memory
file, its output and its results come back in two others; the worker, from which the next child is forked, never holds
any of them. Expected outputs never leave the judge, which compares (``compare``) and takes every byte from a child as
hostile: results are fixed-size headers (``inside.frames``), values are compared as text (``inside.values``) and never
decoded.

**Lockdown.** Scrubbed environment, no descriptor but the child's own, no new privileges, no capabilities, landlock
(reading the standard library without site-packages, shared libraries and two offered packages, numpy and
sortedcontainers; nothing else), resource limits, and a list of allowed system calls (``inside.seccomp``): no fork,
exec, socket, signal or opening for writing. As no child can fork, one SIGKILL ends it. The kernel asks the worker
before each new thread, and beyond 128 at a time the answer is no: no other limit keeps one child from taking all
process ids of the machine. What a program can still learn is whether a path exists.

**Tiers.** ``PORTABLE``: all of the above, as any user, also in an unprivileged container (Linux 5.13, Docker's default
profile). ``FULL``: user, PID, network, IPC, UTS and mount namespaces on top. ``EXTERNAL``: the operator vouches for
the container around it; the kernel's means are used as far as they are there. ``UNSAFE``: limits only. A judge attacks
a worker with canaries first (``probe``) and refuses to start where its tier does not hold.

**Modes.** ``lcb`` gives the official LiveCodeBench evaluator's verdicts (``inside.official``), all tests in one process
as there. Two differences by name: zero tests are INVALID_TASK, and a whole result whose ``__eq__`` accepts everything
is wrong, where only an element inside a list or dict may still do so. ``faithful`` runs the program as a plain script
with real descriptors (``inside.script``), or calls its function: an exit status other than 0 is a runtime error, no
prelude but for functions. The hash seed and the module ``random`` are fixed; ``random.Random()``, numpy's generators,
``os.urandom`` and ``id`` are not.

**Comparison.** Without more, the official evaluator's; a setting or a problem may ask for another, or for a Python
checker, which runs in the sandbox as programs do (``checkers``).

**One child for several tests** (faithful). A fork costs more than most programs: fifteen children cost ten times what
one does. So the tests of a program run in one child, each in a new ``__main__`` with new streams, if its compiled code
has no way to leave something behind in a module (``inside.sharing``); otherwise each gets its own. A pass counts at
once; a failure only counts of a child's first test, and runs again in a fresh child otherwise; a child gets one test's
limits, so that sharing gives no test more. What is given up: a program that hides state in a module where the check
does not see it, and that passes a test only thanks to it, passes. It cannot use that to learn an expected output.

**Reports on single tests** (``per_test``, off by default). In faithful mode each test then has a child of its own, so
that time, memory and standard error are its own; in lcb mode they are of the whole process. The verdict is the same.

**Memory.** Resident memory decides: looked at while a child runs, and by its peak at the end. A child that the kernel
killed for lack of memory has no verdict: it is tried again alone, and is a SANDBOX_ERROR then. A control group's limit
above that one stops what is not resident, where one can be made (``control_group``).

**Time.** CPU time decides, with a looser wall clock that stands still while a program is ready and has no core. What
exceeded its time and lacked a core is tried again at the end, on a share of the workers.
"""

from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import Checker, JudgedTest, JudgeResult, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.sandbox.worker import OFFERED_PACKAGES

__all__ = [
    "OFFERED_PACKAGES",
    "Checker",
    "Comparison",
    "Judge",
    "JudgeResult",
    "JudgeTask",
    "JudgedTest",
    "Limits",
    "SandboxUnavailable",
]
