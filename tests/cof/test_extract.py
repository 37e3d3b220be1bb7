"""Code extraction: the corpus of answers, the report of an extraction, and properties that hold for any answer."""

from __future__ import annotations

import json

import pytest
from answer_corpus import BROKEN, CORPUS, HELD_OUT, MAIN, METHOD, SUM, block
from hypothesis import given
from hypothesis import strategies as st

from dreamprm_jax.cof.extract import Extraction, extract, extract_code
from dreamprm_jax.cof.reads_as_program import Likeness, likeness

PARTS = [
    "```",
    "```python",
    "~~~",
    "\n",
    "x = 1",
    "def f():",
    '"""',
    "'''",
    "# ",
    "<think>",
    "</think>",
    "<code>",
    " ",
    "\0",
]


@pytest.mark.parametrize(
    ("answer", "program"), [case[1:] for case in CORPUS + HELD_OUT], ids=[c[0] for c in CORPUS + HELD_OUT]
)
def test_the_program_of_an_answer(answer, program):
    assert extract_code(answer).strip() == program.strip()


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"explanation": "Squares it.", "code": MAIN}),
        json.dumps({"answer": f"Here:\n{block(MAIN)}"}, indent=1),
        "```json\n" + json.dumps({"program": MAIN}) + "\n```\n",
        f"<solution><![CDATA[\n{MAIN}]]></solution>",
    ],
)
def test_programs_in_json_and_xml(answer):
    assert extract_code(answer).strip() == MAIN.strip()


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 120
    assert len(HELD_OUT) >= 40
    assert len({answer for _, answer, _ in CORPUS + HELD_OUT}) == len(CORPUS + HELD_OUT)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"Here:\n{block(MAIN)}Done.", Extraction(MAIN, "python_fence", False)),
        (block(MAIN, ""), Extraction(MAIN, "plain_fence", False)),
        (block("int main() {}\n", "cpp"), Extraction("int main() {}\n", "other_fence", False)),
        ("Plan.\n```python\n" + MAIN[:20], Extraction(MAIN[:20], "python_fence", True)),
        ("1. So:\n   ```python\n   if x:\n     y()\n   ```", Extraction("if x:\n  y()\n", "python_fence", False)),
        ("```python\nprint(1)```", Extraction("print(1)\n", "python_fence", False)),
        (f"<think>\n{block(MAIN)}and so", Extraction("", "none", True)),
        (MAIN, Extraction(MAIN, "bare", False)),
        ("Sorry", Extraction("", "none", False)),
    ],
)
def test_what_an_extraction_says_of_itself(answer, expected):
    assert extract(answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SUM, Likeness.PROGRAM),
        ("import os\nprint(os.read(0, 9))\n", Likeness.PROGRAM),
        ("print(open(0).read())\n", Likeness.PROGRAM),
        (METHOD, Likeness.DEFINITIONS),
        (BROKEN, Likeness.BROKEN),
        ("def f(n):\n    return helper(n)\n", Likeness.BROKEN),
        ("x = 1\nprint(x)\n", Likeness.SNIPPET),
        ("print(solve(3))\n", Likeness.FRAGMENT),
        ("import pytest\ndef test():\n    assert 1\n", Likeness.FRAGMENT),
        ("from solution import f\nprint(f(1))\n", Likeness.FRAGMENT),
        (">>> import sys\n>>> def f(): pass\n", Likeness.NONE),
        ("YES\nNO\n", Likeness.NONE),
        ("# only a comment\n", Likeness.NONE),
        ("The answer is 9.", Likeness.NONE),
        ("#include <x>\nint main() {}\n", Likeness.NONE),
        ("(" * 10_000, Likeness.NONE),
    ],
)
def test_likeness(text, expected):
    assert likeness(text) is expected


@given(st.lists(st.sampled_from(PARTS), max_size=24))
def test_any_answer_gives_a_part_of_itself(parts):
    answer = "".join(parts)
    found = extract(answer)
    assert (found.source == "none") == (found.code == "")
    assert all(line.strip() in answer for line in found.code.split("\n"))


@given(st.lists(st.sampled_from([*PARTS[:7], block(MAIN), block(SUM), block(METHOD)]), max_size=12))
def test_a_program_that_the_official_rule_finds_is_found(parts):
    answer = "".join(parts)
    lines = answer.split("\n")
    fences = [index for index, line in enumerate(lines) if "```" in line]
    official = "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""
    if likeness(official) >= Likeness.DEFINITIONS:
        assert likeness(extract_code(answer)) >= Likeness.DEFINITIONS


@pytest.mark.parametrize(
    "answer",
    [
        "````python import os ```python\n",
        "````python\nx\n````python import os ```python\n",
        "`````python def f(): ```py\n",
    ],
)
def test_a_shorter_fence_on_the_line_that_opens_a_block_ends(answer):
    assert extract(answer).code
