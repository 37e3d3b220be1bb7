"""Decides correctly which programs may run several tests in one child."""

from __future__ import annotations

import pytest

from dreamprm_jax.sandbox.inside.sharing import may_share

CLASS = "class Node:\n  def __init__(self, x): self.x = x; self.next = None\n"


@pytest.mark.parametrize(
    "code",
    [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\ninput = sys.stdin.readline\nprint(int(input()))",
        "from collections import *\nimport heapq as h\nq = deque([1])\nh.heapify([1])",
        "import sys\nsys.setrecursionlimit(10**6)\nprint(sys.stdin.read())",
        CLASS + "n = Node(1)\nn.next = Node(2)\nn.next.x = 3",
        "import math\ndef main():\n  x = math.gcd(4, 6)\n  print(x)\nmain()",
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n\nprint(f(3))",
        "def f():\n  yield 1\nprint(sum(x for x in f()))",
        "import random\nrandom.seed(1)\nprint(random.random())",
        "from typing import List\nclass A:\n  x: int = 3\n  def f(self): self.y = self.x",
    ],
)
def test_ordinary_programs_share(code: str) -> None:
    assert may_share(compile(code, "x", "exec"))


@pytest.mark.parametrize(
    "code",
    [
        "import collections\ncollections.n = 1",
        "import collections as c\nc.n = 1",
        "import collections\ndef f():\n  collections.n = 1\nf()",
        "def f():\n  import collections\n  def g():\n    collections.n = 1\n  g()",
        "from collections import deque\ndel deque.n",
        "from decimal import Decimal, getcontext\ngetcontext.x = 1",
        "import sys\nsys.stdout = None",
        "import sys\nsys.modules.clear()",
        "import sys\nsys.settrace(None)",
        "import os\nprint(1)",
        "import threading\nprint(1)",
        "import signal, atexit",
        "import gc",
        "import builtins",
        "setattr(print, 'x', 1)",
        "exec('import collections; collections.n = 1')",
        "__import__('collections').n = 1",
        "print.__self__.n = 1",
        "class A:\n  def __del__(self): print(1)",
        "open(0).read()",
        "def f():\n  try: yield 1\n  finally: print(2)\ng = f(); next(g)",
        "def f():\n  def g():\n    return eval('1')\n  return g",
        "import a, b, c, d, e, os",
        "from .x import y",
    ],
)
def test_programs_that_could_leave_something_do_not_share(code: str) -> None:
    assert not may_share(compile(code, "x", "exec"))


def test_wide_programs_are_read_to_their_end() -> None:
    names = "\n".join(f"name_{index} = {index}" for index in range(400))  # opcode arguments that do not fit in one byte
    assert may_share(compile(names + "\nimport math", "x", "exec"))
    assert not may_share(compile(names + "\nimport math\nmath.n = 1", "x", "exec"))
    assert not may_share(compile(names + "\nimport shelve", "x", "exec"))
