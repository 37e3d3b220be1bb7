"""Classes, blocks and lines as steps: round trip for any text, nested cuts, and blocks as Python's parser sees them."""

from __future__ import annotations

import ast
import itertools
import json
import sysconfig
import warnings
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import Granularity

GRANULARITIES = get_args(Granularity)
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "livecodebench"
STDLIB = Path(sysconfig.get_paths()["stdlib"])
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.TryStar, ast.Match, ast.AsyncFor, ast.AsyncWith)

PROGRAM = '''\
import sys
N = 3

class Point:
    """A place."""
    x = 0

    @property
    # after a decorator
    def a(self):
        return self.x
        # the end of a

class Empty(Exception):
    pass

# reads
def main():
    """Reads,
    then solves."""
    n = int(input())
    total = sum(
        range(n)
    )

    # every one
    for i in range(n):
        if i:
            total += i
        # inside the loop
    else:
        total = 0
    try:
        print(total)
    except ValueError:
        pass
    return total

def once(): return 1
if __name__ == "__main__":
    main()
'''


def spans(code: str, granularity: Granularity) -> list[tuple[str, str]]:
    """Checks what holds for every text. Returns (name, text) of each step."""
    steps = split_steps(code, granularity)
    assert [step.index for step in steps] == list(range(len(steps)))
    assert "".join(code[step.start : step.end] for step in steps) == code
    assert (steps[0].start, steps[-1].end) == (0, len(code))
    assert all(a.end == b.start for a, b in itertools.pairwise(steps))
    assert all(step.end > step.start for step in steps) or not code
    assert all(code[step.end - 1] in "\r\n" for step in steps[:-1])  # required by a server's prefix cache
    return [(step.name, code[step.start : step.end]) for step in steps]


def check_everything(code: str) -> None:
    ends = {granularity: {step.end for step in split_steps(code, granularity)} for granularity in GRANULARITIES}
    for granularity in GRANULARITIES:
        spans(code, granularity)
    assert ends["function"] <= ends["block"] <= ends["line"]


def test_a_class_is_one_step():
    names = [name for name, _ in spans(PROGRAM, "class")]
    assert names == ["Point", "Empty", "main", "once"]
    assert spans(PROGRAM, "class")[0][1].endswith("# the end of a\n")
    assert [name for name, _ in spans(PROGRAM, "function")] == ["Point.a", "main", "once"]


def test_blocks_are_what_the_rule_says():
    expected = [
        ("", "import sys\nN = 3\n"),
        ("", '\nclass Point:\n    """A place."""\n    x = 0\n'),
        (
            "Point.a",
            "\n    @property\n    # after a decorator\n    def a(self):\n"
            "        return self.x\n        # the end of a\n",
        ),
        ("", "\nclass Empty(Exception):\n    pass\n"),
        (
            "main",
            '\n# reads\ndef main():\n    """Reads,\n    then solves."""\n    n = int(input())\n'
            "    total = sum(\n        range(n)\n    )\n",
        ),
        (
            "main",
            "\n    # every one\n    for i in range(n):\n        if i:\n            total += i\n"
            "        # inside the loop\n    else:\n        total = 0\n",
        ),
        ("main", "    try:\n        print(total)\n    except ValueError:\n        pass\n"),
        ("main", "    return total\n"),
        ("once", "\ndef once(): return 1\n"),
        ("", 'if __name__ == "__main__":\n    main()\n'),
    ]
    assert spans(PROGRAM, "block") == expected


def test_a_header_and_a_docstring_are_no_block_of_their_own():
    code = (
        'class A:\n    """Doc."""\n    def f(self):\n        """Doc."""\n        while 1:\n            f()\n    x = 1\n'
    )
    assert [name for name, _ in spans(code, "block")] == ["A.f", ""]
    nested = "def f():\n    def g():\n        a = 1\n        for b in c:\n            pass\n    return g\n"
    assert [text for _, text in spans(nested, "block")] == [nested.removesuffix("    return g\n"), "    return g\n"]


def test_lines_end_at_line_breaks_and_carry_the_blank_lines_above_them():
    code = "import sys\n\n\ndef f():\n    '''a\n\n    b'''\n    return 1\n\n"
    assert spans(code, "line") == [
        ("", "import sys\n"),
        ("f", "\n\ndef f():\n"),
        ("f", "    '''a\n"),
        ("f", "\n    b'''\n"),
        ("f", "    return 1\n\n"),
    ]
    assert [text for _, text in spans("a\r\nb\rc", "line")] == ["a\r\n", "b\r", "c"]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        (
            "class",
            ["class A(:\n    def f(self):\n        pass\n    x = 1\n", "\ndef g(:\n    y\n", "class B:\n    z ="],
        ),
        ("block", ["def f(x:\n    a = (1,\n    return a\n", "def g():\n    b = 1\n", "    for c in d:\n        e ="]),
        ("line", ["def f(x:\n", "    a = [\n", "    b"]),
    ],
)
def test_broken_code_is_cut_too(granularity, expected):
    code = "".join(expected)
    with pytest.raises(SyntaxError):
        ast.parse(code)
    assert [text for _, text in spans(code, granularity)] == expected


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("code", ["", "\n", " ", "x = 1", "\ufeff", "\0", "# only\n"])
def test_small_texts_are_one_step(granularity, code):
    assert spans(code, granularity) == [("", code)]


LINES = [
    "def f(x):",
    "class A:",
    "async def g():",
    "return 1",
    "x = 1",
    "if x:",
    "else:",
    "for a in b:",
    "match x:",
    "@d",
]
MARKS = ["(", "]", "\\", ":", "f'{", "}", ";", "'''", '"', "#", "    ", "\t", "\n", "\n    ", "\r\n", "\r", "\f", "\0"]
ODD = ["\ud800", "😀", "é", "\ufeff", "\u2028", "\x85", "\v"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LINES + MARKS + ODD), max_size=40).map("".join))
@example("def f(x):\\\n\ndef f(x):\r\r\n\f@d")
@example("class A:\n    x = [\n    def f(self)\n")
def test_any_text_concatenates_and_finer_steps_keep_the_cuts(code):
    check_everything(code)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_arbitrary_characters_concatenate(code):
    check_everything(code)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_valid_program_cut_anywhere(data):
    code = (STDLIB / "ast.py").read_text(encoding="utf-8")[:30000]
    start = data.draw(st.integers(0, len(code)))
    check_everything(code[start : data.draw(st.integers(start, len(code)))])


def python_blocks(code: str) -> list[tuple[int, int]]:
    """(first line, last line) of each block according to ``ast``: the reference for code that parses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = ast.parse(code)
    blocks: list[tuple[int, int]] = []

    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef, header: int | None) -> None:
        """``header`` is the first line of the definitions with which the first block of this body starts."""
        run: tuple[int, int] | None = None
        body = node.body
        if header is not None and ast.get_docstring(node, clean=False) is not None:
            body, run = body[1:], (header, body[0].end_lineno or 0)
        elif header is not None:
            run = (header, header)
        only_header = header is not None
        for statement in body:
            decorators = [item.lineno for item in getattr(statement, "decorator_list", [])]
            first, last = min([statement.lineno, *decorators]), statement.end_lineno or 0
            opens = (isinstance(statement, FUNCTIONS) and not isinstance(node, FUNCTIONS)) or (
                isinstance(statement, ast.ClassDef) and isinstance(node, ast.Module)
            )
            simple = not isinstance(statement, (*COMPOUND, *FUNCTIONS, ast.ClassDef))
            if run is not None and (only_header or simple):
                first = run[0]
            elif run is not None:
                blocks.append(run)
            run, only_header = (first, last), False
            if opens:
                visit(statement, first)
                run = None
            elif not simple:
                blocks.append(run)
                run = None
        if run is not None:
            blocks.append(run)

    visit(module, None)
    return blocks


def follows_python(code: str) -> int:
    """Compares the cuts between blocks with ``ast``. Returns the number of blocks."""
    expected = python_blocks(code)
    steps = split_steps(code, "block")
    assert len(steps) == max(len(expected), 1)
    for step, (_, last), (first, _) in zip(steps, expected, expected[1:], strict=False):
        assert last <= code.count("\n", 0, step.end) < first
    return len(steps)


def test_blocks_of_the_standard_library_are_those_that_python_reads():
    modules = ["ast", "dataclasses", "enum", "functools", "inspect", "typing", "random", "asyncio/base_events", "heapq"]
    assert sum(follows_python((STDLIB / f"{name}.py").read_text(encoding="utf-8")) for name in modules) > 2000


def test_real_programs_by_granularity():
    path = SHARED / "candidates_o1_mini.json"
    if not path.exists():
        pytest.skip(f"{path} is not here: the 880 real programs are read from it")
    codes = [row["code_list"][0] for row in json.loads(path.read_text(encoding="utf-8"))]
    totals = {granularity: sum(len(spans(code, granularity)) for code in codes) for granularity in GRANULARITIES}
    assert totals == {"function": 942, "class": 927, "block": 4932, "line": 25340}
    assert sum(map(follows_python, codes)) == totals["block"]
