"""Runs untrusted programs and judges them.

    with Judge(mode="faithful", tier="PORTABLE") as judge:
        for result in judge.evaluate(JudgeTask(key, code, tests) for ...):
            ...

**Processes.** The judge (``judge``, ``pool``, ``plan``, ``grading``) runs in the caller's process and starts one worker
per core: a fresh interpreter that runs ``inside.zygote``. It is never forked from the caller, which may therefore hold
jax, threads and secrets. A worker forks one child for each program. The program and its inputs go to the child in a
memory file, and its output and results come back in two others; the worker, from which the next child is forked, never
holds any of them. Expected outputs never leave the judge, which does the comparison (``compare``) and treats every byte
from a child as hostile: results are fixed-size headers (``inside.frames``), and values are compared as text
(``inside.values``) and never decoded.

**Lockdown.** Scrubbed environment, no descriptors but the child's own, no new privileges, no capabilities, landlock
(read access to the standard library without site-packages, shared libraries and two offered packages, numpy and
sortedcontainers; nothing else), resource limits, and an allowlist of system calls (``inside.seccomp``): no fork, exec,
socket, signal or opening for writing. Since a child cannot fork, one SIGKILL ends it. The kernel asks the worker before
each new thread, and the worker refuses more than 128 at a time: no other limit keeps one child from using up all
process ids of the machine. A program can still test whether a path exists.

**Tiers.** ``PORTABLE``: all of the above, as any user, also in an unprivileged container (Linux 5.13, Docker's default
profile). ``FULL``: in addition user, PID, network, IPC, UTS and mount namespaces. ``EXTERNAL``: the operator guarantees
isolation by a surrounding container; kernel features are used if they are available. ``UNSAFE``: limits only. A judge
first attacks a worker with canaries (``probe``) and refuses to start if its tier does not hold.

**Modes.** ``lcb`` gives the official LiveCodeBench evaluator's verdicts (``inside.official``), with all tests in one
process as in that evaluator. There are two deliberate differences: zero tests are INVALID_TASK, and a whole result
whose ``__eq__`` accepts everything is wrong; only an element inside a list or dict may still do so. ``faithful`` runs
the program as a plain script with real descriptors (``inside.script``), or calls its function: an exit status other
than 0 is a runtime error, and there is no prelude except for functions. The hash seed and the module ``random`` are
fixed; ``random.Random()``, numpy's generators, ``os.urandom`` and ``id`` are not.

**Comparison.** The default comparison is that of the official evaluator. A setting or a problem may select another one,
or a Python checker, which runs in the sandbox like the programs (``checkers``).

**One child for several tests** (faithful). A fork costs more than most programs: fifteen children cost ten times as
much as one. So the tests of a program run in one child, each in a new ``__main__`` with new streams, if its compiled
code cannot leave anything behind in a module (``inside.sharing``); otherwise each gets its own child. A pass counts
immediately. A failure counts only for a child's first test; otherwise the test runs again in a fresh child. A child
has the limits of one test, so sharing gives no test more. One gap remains: a program passes if it hides state in a
module where the check does not see it, and passes a test only because of that state. It cannot use this to learn an
expected output.

**Reports on single tests** (``per_test``, off by default). In faithful mode, each test then has its own child, so the
reported time, memory and standard error are those of the test; in lcb mode they are those of the whole process. The
verdict is the same.

**Memory.** The limit applies to resident memory, which is sampled while a child runs and whose peak is read at the end.
A child that the kernel killed for lack of memory has no verdict: it is retried alone, and is a SANDBOX_ERROR if that
happens again. If control groups are available (``control_group``), the group's higher limit covers other memory.

**Time.** The main limit is on CPU time. A looser wall-clock limit is paused while a program is ready but has no core.
Programs that exceeded their time and lacked a core are retried at the end, on a share of the workers.
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
