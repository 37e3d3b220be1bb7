"""Control groups of workers: the real groups of this machine (v1 or v2), and v2 groups with fake files."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits, control_group
from dreamprm_jax.sandbox.control_group import ControlGroup, own_group
from dreamprm_jax.schema import TestCase, Verdict

SOCKETS = """
import socket
held, size = [], 0
try:
    while True:
        one, other = socket.socketpair()
        held.append((one, other))
        one.setblocking(False)
        try:
            while True: size += one.send(b"x" * 65536)
        except BlockingIOError: pass
except OSError: pass
"""


def judged(code: str) -> JudgeResult:
    limits = Limits(20.0, 60.0, memory_bytes=64 << 20, output_bytes=1 << 20)
    with Judge(limits=limits, workers=1, per_test=True) as judge:
        (result,) = judge.evaluate([JudgeTask("key", code, (TestCase("", "1"),))])
    return result


@pytest.fixture
def base() -> Path:
    """This process's own group."""
    found = own_group()
    try:
        assert found is not None
        ControlGroup(found).close()
    except (AssertionError, OSError):
        pytest.skip("no control group can be made here")
    return found


def test_memory_of_the_kernel_counts_in_the_peak_and_the_limit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the program's memory is in socket buffers and is not resident."""
    code = f"{SOCKETS}\nx = bytearray(b'x') * (50 << 20)\nprint(1)"
    result = judged(code)
    assert result.verdict is Verdict.AC
    assert (result.tests[0].peak_bytes or 0) > 66 << 20
    monkeypatch.setattr(control_group, "_SLACK_BYTES", 6 << 20)
    result = judged(code)
    assert (result.verdict, result.error) == (Verdict.MLE, "memory limit exceeded")
    assert judged("print(1)").verdict is Verdict.AC
    assert not list(base.glob(f"dreamprm-judge-{os.getpid()}-*"))


def test_groups_of_a_killed_judge_are_removed(base: Path) -> None:
    left = base / "dreamprm-judge-4194305-0"  # no process has that id
    left.mkdir()
    ControlGroup(base).close()
    assert not left.exists()


def fake(folder: Path, controllers: str, switch: str) -> tuple[Path, Path, Path]:
    """The folder of a v2 group /run.scope, and the two files that give its location."""
    group = folder / "unified" / "run.scope"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text(controllers)
    (group / "cgroup.subtree_control").write_text(switch)
    (folder / "membership").write_text("5:cpu,cpuacct:/x\n0::/run.scope\n")
    (folder / "mounts").write_text(f"proc /proc proc rw 0 0\ncgroup2 {folder}/unified cgroup2 rw,nosuid 0 0\n")
    return group, folder / "membership", folder / "mounts"


def test_version_2_is_found_where_its_children_limit_memory(tmp_path: Path) -> None:
    group, *files = fake(tmp_path / "on", "cpu memory pids", "memory")
    assert own_group(*files) == group
    group, *files = fake(tmp_path / "without", "cpu hugetlb", "")
    assert own_group(*files) is None
    group, *files = fake(tmp_path / "off", "cpu memory", "")  # writing to a plain file does not enable the controller
    assert own_group(*files) is None
    assert (group / "cgroup.subtree_control").read_text() == "+memory"
    assert own_group(tmp_path / "nothing", tmp_path / "nothing") is None


def test_version_2_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *_ = fake(tmp_path, "memory", "memory")
    folder = base / f"dreamprm-judge-{os.getpid()}-77"
    monkeypatch.setattr(control_group, "_numbers", itertools.count(77))
    make = Path.mkdir

    def filled(path: Path) -> None:
        make(path)
        (path / "memory.events").write_text("oom 2\n")

    monkeypatch.setattr(Path, "mkdir", filled)
    group = ControlGroup(base)
    assert group._folder == folder
    events = folder / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")
    group.add(17)
    group.begin(100 << 20, wants_peak=True)
    assert (folder / "cgroup.procs").read_text() == "17"
    assert (folder / "memory.max").read_text() == str((100 << 20) + control_group._SLACK_BYTES)
    assert not group.reached()
    events.write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.reached()
    assert group.peak() is None  # Linux before 5.19 has no memory.peak
    for path in folder.iterdir():
        path.unlink()
    group.close()
    assert not folder.exists()
