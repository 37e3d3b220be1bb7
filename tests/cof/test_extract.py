"""Code extraction: one case for each clause of the rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamprm_jax.cof.extract import Extraction, extract, extract_code

PROGRAM = "def main():\n    print(1)\n\nmain()\n"


def fenced(code: str, tag: str = "python", fence: str = "```") -> str:
    return f"{fence}{tag}\n{code}{fence}\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"Here:\n{fenced(PROGRAM)}Done.", Extraction(PROGRAM, "python_fence", False)),
        (fenced("draft()\n") + "Better:\n" + fenced(PROGRAM, "Python3"), Extraction(PROGRAM, "python_fence", False)),
        (fenced(PROGRAM, "py") + "Output:\n" + fenced("1\n", ""), Extraction(PROGRAM, "python_fence", False)),
        (fenced("a()\n", "") + fenced(PROGRAM, ""), Extraction(PROGRAM, "plain_fence", False)),
        (fenced("int main() {}\n", "cpp"), Extraction("int main() {}\n", "other_fence", False)),
        (fenced("int main() {}\n", "cpp") + fenced(PROGRAM, ""), Extraction(PROGRAM, "plain_fence", False)),
        # cut off by the token limit: nothing after the code, and a closed program is preferred
        ("Plan.\n```python\n" + PROGRAM[:20], Extraction(PROGRAM[:20], "python_fence", True)),
        (fenced(PROGRAM) + "```python\ndef", Extraction(PROGRAM, "python_fence", False)),
        (fenced(PROGRAM) + fenced("", "python"), Extraction(PROGRAM, "python_fence", False)),
        # tildes, longer fences, fences in a list item, a closing fence on the last line of code
        (fenced(PROGRAM, "python", "~~~~"), Extraction(PROGRAM, "python_fence", False)),
        (fenced("x = '''\n```\n'''\n", "python", "````"), Extraction("x = '''\n```\n'''\n", "python_fence", False)),
        ("1. So:\n   ```python\n   if x:\n     y()\n   ```", Extraction("if x:\n  y()\n", "python_fence", False)),
        ("```python\nprint(1)```", Extraction("print(1)\n", "python_fence", False)),
        (fenced("# use ```json```\nx = 1\n"), Extraction("# use ```json```\nx = 1\n", "python_fence", False)),
        # reasoning
        (f"<think>\n{fenced('no()' + chr(10))}</think>\n{fenced(PROGRAM)}", Extraction(PROGRAM, "python_fence", False)),
        (f"<think>\n{fenced(PROGRAM)}and so", Extraction("", "none", True)),
        # no fence
        (PROGRAM, Extraction(PROGRAM, "bare", False)),
        ("import sys\nprint(sys.stdin.read(", Extraction("import sys\nprint(sys.stdin.read(", "bare", False)),
        ("Sorry", Extraction("", "none", False)),
        ("I cannot solve this problem.", Extraction("", "none", False)),
        ("", Extraction("", "none", False)),
        ("```python\n```", Extraction("", "none", False)),
    ],
)
def test_rule(answer, expected):
    assert extract(answer) == expected
    assert extract_code(answer) == expected.code


def test_windows_line_ends_stay_in_the_code():
    assert extract_code("```python\r\nx = 1\r\ny = 2\r\n```\r\n") == "x = 1\r\ny = 2\r\n"


@given(
    st.lists(st.sampled_from(["```", "```python", "~~~", "\n", "x = 1", "<think>", "</think>", " ", "\0"]), max_size=20)
)
def test_any_answer_gives_a_part_of_itself(parts):
    answer = "".join(parts)
    found = extract(answer)
    assert (found.source == "none") == (found.code == "")
    assert all(line.strip() in answer for line in found.code.split("\n"))
