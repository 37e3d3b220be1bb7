"""Kernels without landlock, system-call filters or pidfds, as in gVisor. They are simulated: these calls fail."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Runs in a separate process, because a system-call filter cannot be removed.
_SCRIPT = """
import ctypes, struct, sys, warnings
from dreamprm_jax.sandbox import Judge, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.sandbox.inside import lockdown, seccomp
from dreamprm_jax.schema import TestCase

def lacking(*calls):
    "Has system calls fail with ENOSYS; prctl only where it would set a filter."
    program = [seccomp.Instruction(seccomp._LOAD, 0, 0, 0)]
    for number, option in calls:
        program.append(seccomp.Instruction(seccomp._JEQ, 0, 1 if option is None else 4, number))
        if option is not None:
            program += [seccomp.Instruction(seccomp._LOAD, 0, 0, 16), seccomp.Instruction(seccomp._JEQ, 1, 0, option),
                        seccomp.Instruction(seccomp._RET, 0, 0, seccomp._ALLOW)]
        program.append(seccomp.Instruction(seccomp._RET, 0, 0, seccomp._ENOSYS))
    program.append(seccomp.Instruction(seccomp._RET, 0, 0, seccomp._ALLOW))
    data = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in program))
    lockdown.no_new_privileges()
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(data)))
    lockdown._check(lockdown._prctl(22, 2, ctypes.addressof(head)), "prctl")

machine = 0 if lockdown.MACHINE == "x86_64" else 1
CALLS = {"landlock": [(444, None)], "pidfd": [(434, None)], "listener": [((317, 277)[machine], None)],
         "seccomp": [((317, 277)[machine], None), ((157, 167)[machine], 22)]}
lacking(*(call for name in sys.argv[2].split(",") for call in CALLS[name]))
PROGRAMS = {"AC": "print(sum(map(int, input().split())))", "WA": "print(3)", "RE": "1 / 0",
            "TLE": "import time; time.sleep(60)", "MLE": "x = []\\nwhile True: x.append(bytearray(b'x') * (1 << 20))"}
PROGRAMS["AC "] = "import threading\\nt = threading.Thread(target=print, args=(7,))\\nt.start()\\nt.join()"
for mode in ("faithful", "lcb"):
    with warnings.catch_warnings(record=True) as caught:
        try:
            judge = Judge(mode, sys.argv[1], Limits(1.0, 2.0, 128 << 20), workers=2)
        except SandboxUnavailable as error:
            print("refused:", error)
            continue
    print("warned:", *(str(each.message) for each in caught))
    with judge:
        tests = (TestCase("3 4\\n", "7\\n"),)
        for result in judge.evaluate(JudgeTask(name, code, tests) for name, code in PROGRAMS.items()):
            assert result.verdict == result.key.strip(), result
    print("judged")
"""


def outcome(tier: str, lacking: str) -> list[str]:
    """Runs a judge while these calls fail. Returns its output lines, one or two per mode."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, tier, lacking], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("lacking", "named"), [("landlock", "no landlock"), ("seccomp", "no system-call filters")])
def test_the_default_tier_refuses_and_names_the_way_out(lacking: str, named: str) -> None:
    lines = outcome("PORTABLE", lacking)
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("refused: sandbox tier PORTABLE does not hold on this machine")
        assert named in line
        assert "EXTERNAL: only inside a container or VM that you trust" in line


@pytest.mark.parametrize(
    ("lacking", "open_to", "why"),
    [
        ("landlock,pidfd,listener", "listing files, reading files", "no landlock"),  # as in gVisor
        ("landlock,seccomp", "exec, fork, listing files", "no system-call filters"),
    ],
)
def test_external_works_and_says_what_it_lacks(lacking: str, open_to: str, why: str) -> None:
    warned, judged, *others = outcome("EXTERNAL", lacking)
    assert "the surrounding container must deny programs" in warned
    assert open_to in warned
    assert why in warned
    assert [judged, others[1]] == ["judged"] * 2


def test_without_pidfds_the_default_tier_holds() -> None:
    assert outcome("PORTABLE", "pidfd") == ["warned:", "judged"] * 2
