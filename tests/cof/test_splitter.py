"""The step splitter: the spans of any text concatenate to it, and agree with Python's parser for valid programs."""

from __future__ import annotations

import ast
import itertools
import json
import sysconfig
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dreamprm_jax.cof.splitter import split_steps

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "livecodebench"


def pieces(code: str) -> list[tuple[str, str]]:
    """Checks what holds for every text. Returns (name, text) of each step."""
    steps = split_steps(code)
    assert [step.index for step in steps] == list(range(len(steps)))
    assert "".join(code[step.start : step.end] for step in steps) == code
    assert steps[0].start == 0
    assert steps[-1].end == len(code)
    assert all(a.end == b.start for a, b in itertools.pairwise(steps))
    assert all(step.end > step.start for step in steps) or not code
    return [(step.name, code[step.start : step.end]) for step in steps]


def python_names(code: str) -> list[str]:
    """The functions according to ``ast``: the reference for code that parses."""
    names = []
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, functions):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef):
            names += [f"{node.name}.{member.name}" for member in node.body if isinstance(member, functions)]
    return names or [""]


READ = """import sys
N = 3

# reads
def read(x):
    def inner():
        pass
    return x
    # end of read
"""
SOLVE = """
# solves
@cache
@wraps(
    read
)
async def solve(y):
    return y
"""
FIRST_METHOD = """
class Solution:
    z = 1

    @property
    def a(self): return 1
"""
SECOND_METHOD = """
    # second
    def b(self):
        return 2

print(read(1))
"""


def test_every_part_of_a_program_belongs_to_the_step_the_rule_says():
    expected = [("read", READ), ("solve", SOLVE), ("Solution.a", FIRST_METHOD), ("Solution.b", SECOND_METHOD)]
    assert pieces(READ + SOLVE + FIRST_METHOD + SECOND_METHOD) == expected


def test_functions_that_are_no_steps():
    assert [
        name for name, _ in pieces("if x:\n    def f(): pass\nclass A:\n    class B:\n        def g(self): pass\n")
    ] == [""]
    assert pieces("s = '''\ndef f():\n    pass\n'''\n") == [("", "s = '''\ndef f():\n    pass\n'''\n")]


@pytest.mark.parametrize("code", ["", "\n", " ", "x = 1", "print(1)\n", "\ufeff", "\0"])
def test_a_program_without_functions_is_one_step(code):
    assert pieces(code) == [("", code)]


@pytest.mark.parametrize(
    "expected",
    [
        # a truncated last function is still a step
        ["def f():\n    return 1\n", "\ndef g(x):\n    for y in"],
        ["def f():\n    return 1\ndef"],
        # an open bracket hides the rest from the parser, but the indentation still shows the steps
        ["def f():\n    x = (1,\n", "\n# about g\n@d\ndef g():\n    return 2\nprint(g())\n"],
        # a syntax error inside a body does not end the body
        ["def f():\n    x = = 1\n    return x\n", "def g(): pass\n"],
        # methods of a broken class, and a ``def`` inside a string
        [
            "class A(:\n    def f(self):\n        return '''\ndef no():\n'''\n",
            "    def g(self):\n        y = [\n",
            "    def h(self",
        ],
    ],
)
def test_broken_code_is_cut_by_indentation(expected):
    code = "".join(expected)
    with pytest.raises(SyntaxError):
        ast.parse(code)
    assert [text for _, text in pieces(code)] == expected


def test_broken_methods_keep_their_qualified_names():
    first = "class A(:\n    def f(self):\n        pass\n"
    second = "    async def g(self):\n        def no(): pass\n        y = [\n"
    assert [name for name, _ in pieces(first + second + "def h(\n")] == ["A.f", "A.g", "h"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_and_characters_outside_ascii(newline):
    code = newline.join(
        ["\ufeffdef é𝔘(a):", "    return '😀\ud800\0'", "\fdef g():", "    # ε", "    return 1", "g()", ""]
    )
    assert [name for name, _ in pieces(code)] == ["é𝔘", "g"]
    assert pieces(code)[0][1].endswith("\0'" + newline)


LINES = ["def f(x):", "class A:", "async def g():", "return 1", "x = 1", "if x:", "lambda: 0", "def ", "pass", "@d"]
MARKS = ["(", "]", "\\", ":", "f'{", "}", ";", "'''", '"', "#", "    ", "\t", "\n", "\r\n", "\r", "\f", "\0"]
ODD = ["\ud800", "😀", "é", "\ufeff", "\u2028"]
FRAGMENTS = st.sampled_from(LINES + MARKS + ODD)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=40).map("".join))
@example("class A:\n    x = [\n    def f(self)\n")
@example("def f(x):\\\n\ndef f(x):\r\r\n\f@d")
def test_any_text_concatenates(code):
    pieces(code)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_arbitrary_characters_concatenate(code):
    pieces(code)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_valid_program_cut_anywhere_concatenates_and_keeps_its_complete_functions(data):
    code = Path(ast.__file__).read_text(encoding="utf-8")[:30000]
    cut = data.draw(st.integers(0, len(code)))
    whole = [step for step in split_steps(code) if step.end <= cut]
    names = [name for name, _ in pieces(code[:cut])]
    assert names[: max(len(whole) - 1, 0)] == [step.name for step in whole[:-1]]


def test_standard_library_modules_are_split_as_python_reads_them():
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ["ast", "dataclasses", "enum", "functools", "inspect", "typing", "random", "asyncio/base_events"]
    total = 0
    for name in names:
        code = (folder / f"{name}.py").read_text(encoding="utf-8")
        found = [step_name for step_name, _ in pieces(code)]
        assert found == python_names(code), name
        total += len(found)
    assert total > 700


def test_all_real_programs_round_trip_and_follow_python():
    path = SHARED / "candidates_o1_mini.json"
    if not path.exists():
        pytest.skip(f"{path} is not here: the 880 real programs are read from it")
    codes = [row["code_list"][0] for row in json.loads(path.read_text(encoding="utf-8"))]
    assert len(codes) == 880
    assert sum(len(pieces(code)) for code in codes) == 942
    assert all([name for name, _ in pieces(code)] == python_names(code) for code in codes)
