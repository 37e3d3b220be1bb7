"""A program sees only what it needs of the machine, of other programs and of its own test."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.sandbox.worker import find_offer
from dreamprm_jax.schema import TestCase, Verdict

LIMITS = Limits(cpu_seconds=20.0, wall_seconds=60.0)
BASE = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
LIBRARY = Path(sysconfig.get_path("stdlib", vars=BASE))


@pytest.fixture(scope="module", params=[("faithful", "PORTABLE"), ("lcb", "PORTABLE"), ("faithful", "FULL")])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    mode, tier = request.param
    try:
        opened = Judge(mode, tier, LIMITS, workers=1)
    except SandboxUnavailable as error:
        if tier != "FULL":
            raise
        pytest.skip(f"no namespaces here: {error}")
    with opened:
        yield opened


def run(judge: Judge, code: str, expected: str = "", tests: int = 1) -> JudgeResult:
    (result,) = judge.evaluate([JudgeTask("key", code, (TestCase("", expected),) * tests)])
    return result


def test_installed_packages_are_closed(judge: Judge) -> None:
    folders = {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("purelib", vars=BASE))}
    folders |= {LIBRARY / "site-packages", LIBRARY / "dist-packages", Path("/usr/lib/python3/dist-packages")}
    folders |= {Path("/usr/lib/node_modules"), Path("/usr/share"), Path("/opt"), Path("/")}
    offered = set(find_offer().packages)
    files = [
        str(path)
        for folder in folders
        for path in [*sorted(folder.glob("*.py"))[:3], *sorted(folder.glob("*/__init__.py"))[:20]]
        if path.parent.name not in offered
    ]
    code = f"""
import os
for folder in {[str(folder) for folder in folders]!r}:
    try: print("listed", folder, len(os.listdir(folder)))
    except (PermissionError, FileNotFoundError): pass
for file in {files!r}:
    try: print("read", file, len(open(file).read()))
    except PermissionError: pass
"""
    result = run(judge, code)
    assert result.verdict is Verdict.AC, result


def test_the_library_is_all_there(judge: Judge) -> None:
    code = """
import importlib, pkgutil
importlib.invalidate_caches()
import bz2, concurrent.futures, ctypes, curses, email.mime.text, html.parser, lzma, sqlite3, ssl, statistics, unittest
import xml.dom.minidom, xml.etree.ElementTree, zlib, zoneinfo, numpy, numpy.linalg, sortedcontainers
print(zoneinfo.ZoneInfo("Europe/Berlin"), len(open(bz2.__file__).read()) > 0)
"""
    assert run(judge, code, "Europe/Berlin True").verdict is Verdict.AC


def test_programs_do_not_meet_in_dev_null(judge: Judge) -> None:
    meet = """
import fcntl, os
seen = [fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND for descriptor in (0, 2)]
for descriptor in (0, 2):
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
print(seen)
"""
    for _ in range(3):
        assert run(judge, meet, "[0, 0]").verdict is Verdict.AC


def test_the_first_descriptor_of_a_program_is_3(judge: Judge) -> None:
    code = """
import os
held = [number for number in range(3, 128) if os.path.exists(f"/dev/fd/{number}")]
for number in range(3, 128):
    try: held.append(os.fstat(number))
    except OSError: pass
print(os.open("/dev/null", os.O_RDONLY), held)
"""
    assert run(judge, code, "3 []").verdict is Verdict.AC


def test_a_test_does_not_know_which_one_it_is() -> None:
    """A child holds the same data for every test. The position of a test or its neighbors would reveal the answers."""
    look = """
import gc, os, sys
frame, seen = sys._getframe(), []
while frame is not None:
    for name, value in sorted(frame.f_locals.items()):
        if type(value).__name__ in ("Job", "Request"):
            seen += [(name, item) for item in value if isinstance(item, (int, bytes)) and item != value[1]]
            seen.append(len(getattr(value, "inputs", "")))
        if name in ("inputs", "position", "count", "first", "data"):
            seen.append((name, value if isinstance(value, int) else len(value)))
    frame = frame.f_back
for number in range(256):
    try: seen.append((number, os.fstat(number).st_size))
    except OSError: pass
print([item for item in seen if not (isinstance(item, tuple) and len(item) > 4)])
"""
    answers: list[str] = []

    def keep(text: str, expected: str, answer: str) -> bool:
        answers.append(answer)
        return True

    tests = tuple(TestCase("x", "") for _ in range(4))
    with Judge(limits=LIMITS, workers=1) as judge:
        (result,) = judge.evaluate([JudgeTask("key", look, tests, checker=keep)])
    assert result.verdict is Verdict.AC
    assert len(set(answers)) == 1, answers
    assert "180" in answers[0]
