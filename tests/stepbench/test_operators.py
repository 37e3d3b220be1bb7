"""The exact edits of each fault operator, on programs written for this test."""

from __future__ import annotations

import difflib

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.stepbench.mutate import OPERATORS, compiles, edits_by_step

LOOP = """\
def total(values, limit):
    result = 0
    for value in values:
        if value > limit:
            continue
        result += value
    return result
"""
# operator -> program, and the changed line of every mutant ("" if lines are removed, "|" between several lines)
CASES = {
    "comparison_boundary": ("def f(a, b):\n    return a < b >= (2)\n", ["return a <= b >= (2)", "return a < b > (2)"]),
    "comparison_negated": (
        "def f(a, b):\n    return a not in b or a is (b) or a == b\n",
        ["return a in b or a is (b) or a == b", "return a not in b or a is not (b) or a == b",
         "return a not in b or a is (b) or a != b"],
    ),
    "constant_off_by_one": (
        "def f(a):\n    return a + 0 - 10 + 0x1F + True\n",
        ["return a + 1 - 10 + 0x1F + True", "return a + 0 - 11 + 0x1F + True", "return a + 0 - 9 + 0x1F + True"],
    ),
    "arithmetic_operator": (
        "def f(a, b):\n    a //= b\n    return 'x' + a + (b) * 2\n",
        ["a /= b", "return 'x' + a + (b) + 2"],
    ),
    "swapped_operands": ("def f(a, b):\n    return a - b + a * b\n", ["return b - a + a * b"]),
    "swapped_arguments": (
        "def f(a, b):\n    return g(a, (b), b) + h(*a, b) + k(a, a)\n",
        ["return g(b, (a), b) + h(*a, b) + k(a, a)"],
    ),
    "boolean_operator": (
        "def f(a, b):\n    return (a and b) and not b\n",
        ["return (a or b) and not b", "return (a and b) or not b"],
    ),
    "condition_negated": (
        "def f(a, b):\n    if a:\n        return not (a and b)\n    while not b: b = g(a)\n",
        ["if not a:", "return (a and b)", "while b: b = g(a)"],
    ),
    "range_boundary": (
        "def f(n):\n    return [list(range(n)), range(1, n + 1), range(3, 2 * n)]\n",
        ["return [list(range(n + 1)), range(1, n + 1), range(3, 2 * n)]",
         "return [list(range(n - 1)), range(1, n + 1), range(3, 2 * n)]",
         "return [list(range(1, n)), range(1, n + 1), range(3, 2 * n)]",
         "return [list(range(n)), range(2, n + 1), range(3, 2 * n)]",
         "return [list(range(n)), range(0, n + 1), range(3, 2 * n)]",
         "return [list(range(n)), range(1, n), range(3, 2 * n)]",
         "return [list(range(n)), range(1, n + 2), range(3, 2 * n)]",
         "return [list(range(n)), range(1, n + 1), range(4, 2 * n)]",
         "return [list(range(n)), range(1, n + 1), range(2, 2 * n)]",
         "return [list(range(n)), range(1, n + 1), range(3, (2 * n) + 1)]",
         "return [list(range(n)), range(1, n + 1), range(3, (2 * n) - 1)]"],
    ),
    "index_off_by_one": (
        "def f(rows, key):\n    for at in range(3):\n        key = rows[at][key]\n    return rows[-1:]\n",
        ["key = rows[at + 1][key]", "key = rows[at - 1][key]", "return rows[-1 + 1:]", "return rows[-1 - 1:]"],
    ),
    "wrong_variable": (
        "def f(a, b):\n    c = g(a)\n    d = [e for e in b]\n    return c\n",
        ["c = g(b)", "d = [e for e in a]", "d = [e for e in c]", "return a", "return b", "return d"],
    ),
    "function_swapped": (
        "def f(a, any):\n    return math.floor(min(a)) + any(a)\n",
        ["return math.ceil(min(a)) + any(a)", "return math.floor(max(a)) + any(a)"],
    ),
    "sort_order": (
        "def f(a):\n    a.sort()\n    b = sorted(a, key=g, reverse=True)\n    c = sorted(x for x in a)\n"
        "    return sorted(a,)\n",
        ["a.sort(reverse=True)", "b = sorted(a, key=g, reverse=False)", "return sorted(a,reverse=True)"],
    ),
    "statement_removed": (
        "def f(a):\n    a.append(1)  # last\n    a[0] = 2\n    b = 3\n    if b:\n        b += 1\n"
        "    print(a)\n    g(); h()\n",
        ["", "", "pass"],
    ),
    "missing_base_case": (
        "def f(n):\n    if n < 2:\n        return n\n    elif n > 9:\n        return 1\n    if n == 5: return 7\n"
        "    return f(n - 1)\n",
        [""],
    ),
    "accumulation_lost": (LOOP, ["result = value"]),
    "loop_control": (
        "def f(a):\n    for x in a:\n        if x: break\n        continue\n    while a:\n        break\n",
        ["if x: continue", "break"],
    ),
    "early_return": (LOOP, ["return result"]),
    "wrong_return": (
        "def f(a, b):\n    if a: return True\n    if b: return -a\n    if a: return g(b, a)\n    if b: return a, b\n"
        "    return a / (b)\n",
        ["if a: return False", "if b: return a", "if a: return b", "if b: return b, a", "return a", "return b"],
    ),
}  # fmt: skip


def changed_lines(before: str, after: str) -> str:
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return "|".join(line[2:].strip() for line in diff if line.startswith("+ "))


def test_every_operator_has_a_case():
    assert set(CASES) == set(OPERATORS)


@pytest.mark.parametrize("operator", CASES)
def test_edits(operator):
    code, expected = CASES[operator]
    edits = edits_by_step(code, split_steps(code))[0].get(operator, [])
    mutants = [edit.apply(code) for edit in edits]
    assert sorted(changed_lines(code, mutant) for mutant in mutants) == sorted(expected)
    assert all(compiles(mutant) for mutant in mutants)
    assert {edit.operator for edit in edits} == {operator}


def test_the_removed_statement_takes_its_line_and_comment():
    code, _ = CASES["statement_removed"]
    mutants = [edit.apply(code) for edit in edits_by_step(code, split_steps(code))[0]["statement_removed"]]
    assert code.replace("    a.append(1)  # last\n", "") in mutants
    assert code.replace("        b += 1\n", "        pass\n") in mutants


def test_the_early_return_is_in_the_loop():
    (edit,) = edits_by_step(LOOP, split_steps(LOOP))[0]["early_return"]
    assert edit.apply(LOOP).endswith("        result += value\n        return result\n")
