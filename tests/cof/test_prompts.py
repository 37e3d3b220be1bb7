"""Chain-of-Function prompts: each form requests the function or program that the judge will call."""

from __future__ import annotations

import pytest

from dreamprm_jax.cof.prompts import PROMPT_VERSION, assistant_prefix, continuation_messages, messages
from dreamprm_jax.schema import DataError, Problem

STDIN = Problem("p1", "Sum", "Print the sum.", "atcoder", "c", "2024-01-01T00:00:00", "easy")
METHOD = Problem(
    "p2",
    "Pairs",
    "Count {pairs}.",
    "leetcode",
    "c",
    "2024-01-01T00:00:00",
    "easy",
    starter_code="class Solution:\n    def countPairs(self, nums: List[int]) -> int:\n        ",
    func_name="countPairs",
)
FUNCTION = Problem("p3", "Pairs", "Count.", "own", "c", "2024-01-01T00:00:00", "easy", func_name="count_pairs")


def user(problem: Problem) -> str:
    system, turn = messages(problem)
    assert (system["role"], turn["role"]) == ("system", "user")
    return turn["content"]


def test_stdin_form():
    text = user(STDIN)
    assert text.startswith("# Sum\n\nPrint the sum.\n\n")
    assert "define `main()` first" in text
    assert "docstring" in text
    assert "Solution" not in text


def test_function_call_forms():
    text = user(METHOD)
    assert "Count {pairs}." in text
    assert "```python\nclass Solution:\n    def countPairs(self, nums: List[int]) -> int:\n```" in text
    assert "further methods of the same class" in text
    assert "Define `count_pairs` first" in user(FUNCTION)
    assert "\n\n\n" not in user(FUNCTION)


def test_continuation_forms():
    prefix = "def main():\n    x = {1: 2}\n"
    assert assistant_prefix(prefix) == "```python\n" + prefix
    assert f"```python\n{prefix}```" in continuation_messages(STDIN, prefix)[1]["content"]


def test_versions_are_named():
    assert PROMPT_VERSION == "cof-1"
    with pytest.raises(DataError, match="cof-0"):
        messages(STDIN, "cof-0")
