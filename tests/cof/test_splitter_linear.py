"""The cost of the splitter is proportional to the length of the text, for any text."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from dreamprm_jax.cof.source_text import RECOVERY_CHARACTERS
from dreamprm_jax.cof.splitter import split_steps

SMALL, FACTOR = 20_000, 8
UNITS = {
    "broken methods": "    def f(self):\n        return (\n",
    "headers": "def f(\n",
    "joined empty lines": "\\\n",
    "comments in a broken body": "    # c\n",
    "decorators": "@x\n",
    "clauses": "else:\n",
    "open brackets": "([{",
    "quotes": '"""\n',
    "escapes": "'\\",
    "prose": "This is a sentence, isn't it? (yes\n",
    "functions": "def f():\n    return 1\n\n",
    "spaces before a bracket": " ",
    "one word before a bracket": "x",
    "short lines": "x\n",
}
HEADS = {"comments in a broken body": "def f(:\n", "short lines": "def f():\n  'x'\n\n"}
TAILS = {"spaces before a bracket": "(\n'", "one word before a bracket": "(\n'"}


def text(kind: str, size: int) -> str:
    unit = UNITS[kind]
    return HEADS.get(kind, "") + unit * (size // len(unit)) + TAILS.get(kind, "")


def cost(code: str) -> float:
    """CPU seconds of the finest granularity, which does all the work of the others."""
    start = time.process_time()
    split_steps(code, "line")
    return time.process_time() - start


@pytest.mark.parametrize("kind", UNITS)
def test_cost_follows_the_length(kind):
    """A ratio within one run: 8 times the text costs about 8 times as much. A quadratic cost would be 64 times."""
    small = min(cost(text(kind, SMALL)) for _ in range(3))
    large = text(kind, SMALL * FACTOR)
    assert any(cost(large) < 3.5 * FACTOR * small for _ in range(3))


@pytest.mark.parametrize("granularity", ["function", "class", "block", "line"])
def test_a_long_broken_text_is_cut_without_a_tree(granularity):
    draw = random.Random(0)
    noise = "".join(draw.choice("ab:()[]{}\"'#\n\t @\\") for _ in range(RECOVERY_CHARACTERS))
    code = f"def first():\n    return 1\n\n{noise}\n\nclass A:\n    def method(self):\n        return (\n"
    steps = split_steps(code, granularity)
    assert steps[0].start == 0
    assert steps[-1].end == len(code)
    assert all(a.end == b.start for a, b in itertools.pairwise(steps))
    assert steps[0].name == "first"
    assert len(steps) > 1
