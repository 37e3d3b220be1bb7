"""Answers in the style of models and servers, written for these tests, each with the program that should be extracted.

``CORPUS`` was used while the rule was developed. ``HELD_OUT`` was written afterwards, in batches (see
``benchmarks/extraction.py``). An entry is (name, answer, program); the program is "" if the answer contains none.
"""

from __future__ import annotations

MAIN = '''\
def main():
    """Read and square."""
    print(int(input()) ** 2)


main()
'''
SUM = '''\
import sys


def main():
    """Reads all numbers and prints the sum of the even ones."""
    numbers = read_numbers()
    print(total(numbers))


def read_numbers():
    """Splits the input at white space."""
    return [int(word) for word in sys.stdin.read().split()[1:]]


def total(numbers):
    """Adds what is even."""
    return sum(number for number in numbers if number % 2 == 0)


if __name__ == "__main__":
    main()
'''
METHOD = '''\
class Solution:
    def longest(self, nums: List[int]) -> int:
        """Walks once; the best run is kept."""
        best = run = 0
        for number in nums:
            run = self.extend(run, number)
            best = max(best, run)
        return best

    def extend(self, run: int, number: int) -> int:
        """A run goes on while numbers are positive."""
        return run + 1 if number > 0 else 0
'''
FENCED_DOC = '''\
def main():
    """Plan.

    Example:
    ```
    3 -> 9
    ```
    """
    print(square(int(input())))


def square(n):
    """Multiply n by itself."""
    return n * n


main()
'''
FLUSH_DOC = '''\
"""Squares a number.

```python
square(3)
```
"""


def square(n):
    """Multiply n by itself."""
    return n * n


print(square(int(input())))
'''
COMMENT_DOC = """\
import sys

# Input:
# ```
# 3
# ```
data = sys.stdin.read().split()
print(max(map(int, data)))
"""
STRING_DOC = """\
FENCE = "```"
TAG = '</think>'
text = input()
print(text.replace(FENCE, "").replace(TAG, ""))
"""
BROKEN = '''\
def main():
    """Misses a bracket."""
    n = int(input()
    print(n * n)


main()
'''
BROKEN_DOC = FENCED_DOC.replace("int(input())))", "int(input()))")
UNIT_TEST = """\
import unittest
from solution import Solution


class Test(unittest.TestCase):
    def test(self):
        self.assertEqual(Solution().longest([1]), 1)
"""
TINY = "print(int(input()) ** 2)\n"
CONSTANT = "print(sum(i for i in range(1000) if i % 3 == 0 or i % 5 == 0))\n"
DRAFT = "n = int(input())\nprint(n + n)\n"
CUT = MAIN[:48]
CPP = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * n; }\n"


def block(code: str, tag: str = "python", fence: str = "```") -> str:
    """A fenced code block."""
    return f"{fence}{tag}\n{code}{fence}\n"


def indented(text: str, by: str = "    ") -> str:
    """The text with every non-blank line indented."""
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


P, S, M, D = block(MAIN), block(SUM), block(METHOD), block(DRAFT)

CORPUS: list[tuple[str, str, str]] = [
    # one block
    ("plain alone", P, MAIN),
    ("plain prose around", f"Here it is.\n\n{P}\nIt runs in constant time.", MAIN),
    ("plain method", f"We walk once.\n\n{M}", METHOD),
    ("plain no last newline", P.rstrip("\n"), MAIN),
    ("plain untagged", block(MAIN, ""), MAIN),
    ("plain windows line ends", P.replace("\n", "\r\n"), MAIN.replace("\n", "\r\n")),
    ("plain blank lines inside the fence", f"```python\n\n{MAIN}\n```", f"\n{MAIN}\n"),
    ("plain sentence in Chinese", f"代码如下：\n\n{P}\n时间复杂度 O(1)。", MAIN),
    ("plain constant program", f"The sum:\n{block(CONSTANT)}", CONSTANT),
    ("plain one line", block(TINY), TINY),
    # text on the line of the opening fence
    ("opening text before", f"Solution: {P}", MAIN),
    ("opening bold label", f"**Answer:** {P}This squares.", MAIN),
    ("opening heading", f"### Code ```python\n{MAIN}```", MAIN),
    ("opening list item", f"1. {block(SUM)}", SUM),
    ("opening tag glued before", f"<answer>{P}</answer>", MAIN),
    ("opening capital tag", block(MAIN, "Python"), MAIN),
    ("opening version", block(MAIN, "python3.11"), MAIN),
    ("opening space before the tag", block(MAIN, " python"), MAIN),
    ("opening trailing spaces", block(MAIN, "python   "), MAIN),
    ("opening title", block(MAIN, 'python title="main.py"'), MAIN),
    ("opening braces", block(MAIN, "{.python}"), MAIN),
    ("opening braces and options", block(MAIN, "{python, echo=False}"), MAIN),
    ("opening path", block(MAIN, "python:main.py"), MAIN),
    ("opening file name", block(MAIN, "main.py"), MAIN),
    (
        "opening code on it",
        "```python import sys\nprint(sum(map(int, sys.stdin)))\n```",
        "import sys\nprint(sum(map(int, sys.stdin)))\n",
    ),
    (
        "opening code without a tag",
        "```import sys\nprint(sum(map(int, sys.stdin)))\n```",
        "import sys\nprint(sum(map(int, sys.stdin)))\n",
    ),
    ("opening inline", "It is ```python print(int(input()) ** 2)``` and no more.", "print(int(input()) ** 2)\n"),
    ("opening untagged after text", f"So: ```\n{MAIN}```", MAIN),
    ("opening wrong tag", block(MAIN, "javascript"), MAIN),
    ("opening pypy", block(SUM, "PyPy3"), SUM),
    # text on the line of the closing fence
    ("closing end token", f"```python\n{MAIN}```<|im_end|>", MAIN),
    ("closing end token of Llama", f"```python\n{MAIN}```<|eot_id|>", MAIN),
    ("closing sentence", f"```python\n{MAIN}``` The program squares.", MAIN),
    ("closing full stop", f"Use ```python\n{MAIN}```.", MAIN),
    ("closing tag", f"<answer>\n```python\n{MAIN}```</answer>", MAIN),
    ("closing on the last line of code", f"```python\n{MAIN.rstrip()}```\nDone.", MAIN),
    ("closing on the last line and a sentence", f"```python\n{MAIN.rstrip()}``` squares.", MAIN),
    ("closing after a comment", "```python\nprint(input())  # echo```\nDone.", "print(input())  # echo\n"),
    ("closing indented", f"```python\n{MAIN}   ```", MAIN),
    ("closing longer", f"```python\n{MAIN}`````\nDone.", MAIN),
    ("closing by a tagged fence", f"```python\n{MAIN}```python\nThat is all.", MAIN),
    ("closing missing before a block", f"```python\n{MAIN}\nOr better:\n{S}", SUM),
    ("closing token alone", f"```python\n{MAIN}<|im_end|>", MAIN),
    # other fences
    ("fence tildes", block(MAIN, "python", "~~~"), MAIN),
    ("fence four backticks", block(MAIN, "python", "````"), MAIN),
    ("fence four around three", block(FLUSH_DOC, "python", "````"), FLUSH_DOC),
    ("fence markdown around", block(f"# Answer\n{P}", "markdown", "````"), MAIN),
    ("fence markdown of three", block(f"# Answer\n{P}", "markdown"), MAIN),
    ("fence quote", "".join(f"> {line}" for line in P.splitlines(keepends=True)), MAIN),
    ("fence list item indented", f"1. Read.\n2. Square:\n\n{indented(P, '   ')}", MAIN),
    ("fence list item over-indented", f"- So:\n  ```python\n{indented(SUM, '      ')}  ```", SUM),
    ("fence spoken of before", f"I put it in ``` as asked.\n{P}", MAIN),
    ("fence spoken of after", f"{P}\nThe ``` marks are not part of it.", MAIN),
    ("fence PYTHON tags", f"[PYTHON]\n{MAIN}[/PYTHON]", MAIN),
    ("fence code tags", f"<code>\n{MAIN}</code>", MAIN),
    # fences within programs
    ("inside docstring", f"Here it is.\n\n{block(FENCED_DOC)}Done.", FENCED_DOC),
    ("inside docstring untagged", block(FENCED_DOC, ""), FENCED_DOC),
    ("inside docstring at column 0", block(FLUSH_DOC), FLUSH_DOC),
    ("inside comments", block(COMMENT_DOC), COMMENT_DOC),
    ("inside strings", block(STRING_DOC), STRING_DOC),
    ("inside strings and output after", block(STRING_DOC) + "Output:\n" + block("a\n", ""), STRING_DOC),
    ("inside a broken program", block(BROKEN_DOC), BROKEN_DOC),
    ("inside docstring and example after", block(FENCED_DOC) + "Try:\n" + block("square(3)\n"), FENCED_DOC),
    ("inside docstring cut off", block(FENCED_DOC)[:-30], FENCED_DOC[:-26]),
    ("inside docstring never closed", block(MAIN.replace('square."""', "square.")) + f"\nFixed:\n{S}", SUM),
    (
        "inside four quotes of both kinds",
        block("'''```'''\n\"\"\"\n```\n\"\"\"\n" + MAIN),
        "'''```'''\n\"\"\"\n```\n\"\"\"\n" + MAIN,
    ),
    (
        "inside tildes in a docstring",
        block(FENCED_DOC.replace("```", "~~~"), "python", "~~~"),
        FENCED_DOC.replace("```", "~~~"),
    ),
    ("inside escaped quote", block("x = '\\'```'\n" + MAIN), "x = '\\'```'\n" + MAIN),
    # reasoning
    ("reasoning think", f"<think>\nFirst {D} no.\n</think>\n\n{P}", MAIN),
    ("reasoning opened by the prompt", f"First {D} no.\n</think>\n\n{P}", MAIN),
    ("reasoning empty", f"<think>\n\n</think>\n\n{P}", MAIN),
    ("reasoning cut", f"<think>\nfirst\n{D}so", ""),
    ("reasoning thinking cut", f"<thinking>\nfirst try:\n{D}hmm, wrong, so", ""),
    ("reasoning THINK", f"[THINK]maybe\n{D}[/THINK]{P}", MAIN),
    ("reasoning THINK cut", f"[THINK]maybe\n{D}", ""),
    (
        "reasoning begin of thought",
        f"<|begin_of_thought|>\n{D}<|end_of_thought|>\n\n<|begin_of_solution|>\n{P}<|end_of_solution|>",
        MAIN,
    ),
    ("reasoning begin of thought cut", f"<|begin_of_thought|>\n{D}Wait.", ""),
    ("reasoning START_THINKING", f"<|START_THINKING|>{D}<|END_THINKING|><|START_RESPONSE|>{P}<|END_RESPONSE|>", MAIN),
    ("reasoning Kimi", f"◁think▷\n{D}◁/think▷\n{P}", MAIN),
    ("reasoning Kimi cut", f"◁think▷\n{D}", ""),
    ("reasoning seed", f"<seed:think>\n{D}</seed:think>\n{P}", MAIN),
    ("reasoning attributes", f'<thinking time="3s">\n{D}</thinking>\n{P}', MAIN),
    ("reasoning scratchpad", f"<scratchpad>\n{D}</scratchpad>\n{P}", MAIN),
    ("reasoning scratchpad cut", f"<scratchpad>\n{D}then", ""),
    ("reasoning capitals", f"<THINK>\n{D}</THINK>\n{P}", MAIN),
    (
        "reasoning channels",
        f"<|channel|>analysis<|message|>{D}<|end|><|start|>assistant<|channel|>final<|message|>{P}<|return|>",
        MAIN,
    ),
    ("reasoning channels cut", f"<|channel|>analysis<|message|>We try\n{D}and", ""),
    ("reasoning channels without marks", f"analysisWe try\n{D}assistantfinal{P}", MAIN),
    ("reasoning channels without marks cut", f"analysisWe try\n{D}and", ""),
    ("reasoning nested", f"<thinking>\n{D}<reflection>no</reflection>\n{D}</thinking>\n<output>\n{P}</output>", MAIN),
    ("reasoning reflection after", f"{P}<reflection>\nIt is right: {block('9', '')}</reflection>", MAIN),
    ("reasoning reflection after cut", f"{P}<reflection>\nOr\n{block(DRAFT)[:20]}", MAIN),
    ("reasoning mismatched tags", f"<think>\n{D}</thinking>\n{P}", MAIN),
    ("reasoning open fence in it", f"<think>\n```python\nprint(1)\n</think>\n{P}", MAIN),
    ("reasoning tag in the program", f"<think>\nno\n</think>\n{block(STRING_DOC)}", STRING_DOC),
    ("reasoning then refusal", f"<think>\n{D}</think>\nI cannot solve this.", ""),
    ("reasoning unknown tag cut", f"<musing>\n{D}but", ""),
    ("reasoning medgemma", f"<unused94>thought\n{D}<unused95>{P}", MAIN),
    ("reasoning ollama", f"Thinking...\n{D}...done thinking.\n\n{P}", MAIN),
    ("reasoning granite", f"Here is my thought process:\n{D}Here is my response:\n{P}", MAIN),
    ("reasoning answer tag without an end", f"<reasoning>\n{D}\n<answer>\n{P}</answer>", MAIN),
    ("reasoning spoken of", f"<think>\nI must close with `</think>`.\n{D}</think>\n{P}", MAIN),
    # several blocks
    ("several draft before", f"{D}That is wrong. Right:\n{P}", MAIN),
    ("several example after", P + "Try it:\n" + block(">>> main()\n9\n"), MAIN),
    ("several call after", S + "Usage:\n" + block("print(total([1, 2]))\n"), SUM),
    ("several output after untagged", block(MAIN, "") + "Output:\n" + block("9\n", ""), MAIN),
    ("several output after tagged", P + block("9\n", "python"), MAIN),
    ("several words after", P + "It prints\n" + block("YES\nNO\n"), MAIN),
    ("several shell after", P + "Run:\n" + block("python3 main.py < input.txt\n", "bash"), MAIN),
    (
        "several excerpt after",
        S + "The key is\n" + block(SUM[SUM.index("def total") : SUM.index("if __name__")]),
        SUM,
    ),
    ("several line after", S + "where\n" + block("dp[i] = dp[i - 1] + 1\n"), SUM),
    ("several method and use", M + block("print(Solution().longest([1, 2]))\n"), METHOD),
    (
        "several method and unit test",
        M + block(UNIT_TEST),
        METHOD,
    ),
    (
        "several asserts after",
        block(MAIN.replace("main()\n", "")) + block("assert square(3) == 9\nassert square(4) == 16\n"),
        MAIN.replace("main()\n", ""),
    ),
    ("several other language after", P + "In C++:\n" + block(CPP, "cpp"), MAIN),
    ("several other language before", block(CPP, "cpp") + P, MAIN),
    ("several pseudocode before", block("read n\nprint n squared\n", "") + P, MAIN),
    (
        "several starter before",
        "You gave\n" + block("class Solution:\n    def longest(self, nums: List[int]) -> int:\n") + M,
        METHOD,
    ),
    (
        "several brute force before",
        "Slow:\n" + block("n = int(input())\ns = 0\nfor _ in range(n):\n    s += n\nprint(s)\n") + "Fast:\n" + P,
        MAIN,
    ),
    ("several input before", "For\n" + block("3\n1 2 3\n", "") + S, SUM),
    ("several json after", P + block('{"input": 3, "output": 9}\n', "json"), MAIN),
    ("several tagged before untagged", P + block(DRAFT, ""), MAIN),
    ("several broken and example", block(BROKEN) + "Example:\n" + block("print(3 * 3)\n"), BROKEN),
    ("several broken draft", block(BROKEN) + "Mended:\n" + P, MAIN),
    ("several session before", block(">>> 3 ** 2\n9\n") + P, MAIN),
    ("several empty last", P + block("", "python"), MAIN),
    # truncated, and without fences
    ("cut in the block", f"Plan.\n```python\n{CUT}", CUT),
    ("cut in a second block", f"{P}```python\ndef", MAIN),
    ("cut after a fragment", "Idea:\n" + block("dp[i] = dp[i - 1]\n") + f"```python\n{CUT}", CUT),
    ("cut without a closing fence", f"```python\n{MAIN}", MAIN),
    (
        "cut and prose without a closing fence",
        f"```python\n{MAIN}\nThis program reads a number and squares it.",
        MAIN + "\n",
    ),
    ("bare program", SUM, SUM),
    ("bare cut", SUM[:100], SUM[:100]),
    ("bare prose before", f"Here is the program:\n\n{MAIN}", MAIN),
    ("bare end token", f"{MAIN}<|endoftext|>", MAIN),
    ("bare closing fence alone", f"{MAIN}```\nIt squares.", MAIN),
    ("bare other language", block(CPP, "cpp"), CPP),
    (
        "turn made up after",
        f"{P.rstrip()}<|im_end|>\n<|im_start|>user\nNow add.<|im_end|>\n<|im_start|>assistant\n{D}",
        MAIN,
    ),
    ("none refusal", "I cannot solve this problem.", ""),
    ("none empty", "", ""),
    ("none prose", "The answer is 9: square the number.", ""),
    ("none empty block", "```python\n```", ""),
]


RECURSIVE = """\
import sys
sys.setrecursionlimit(10 ** 6)
from functools import cache


@cache
def ways(n):
    '''Counts the ways to climb n steps.

    >>> ways(3)
    3
    '''
    return 1 if n < 2 else ways(n - 1) + ways(n - 2)


t = int(sys.stdin.readline())
for _ in range(t):
    print(ways(int(sys.stdin.readline())))
"""
OS_READ = "import os\nprint(len(os.read(0, 10 ** 6).split()))\n"
FUNCTION = '''\
def is_even(n: int) -> bool:
    """Halves and doubles."""
    return n // 2 * 2 == n
'''
PYTHON2 = "n = int(raw_input())\nfor i in range(n):\n    print i * i\n"
R = block(RECURSIVE)

HELD_OUT: list[tuple[str, str, str]] = [
    ("held doctest in a docstring", f"Sure!\n{R}Enjoy.", RECURSIVE),
    ("held star list and label", f"* **Code:**\n\n  ```py\n{indented(RECURSIVE, '  ')}  ```", RECURSIVE),
    ("held label and colon", f"Final code:```python\n{RECURSIVE}```", RECURSIVE),
    ("held closing then quote", f'> Answer\n\n{R.rstrip()} "hope it helps"', RECURSIVE),
    ("held table after", f"{R}| n | ways |\n|---|---|\n| 3 | 3 |\n", RECURSIVE),
    ("held thought tag", f"<thought>\n{D}</thought>{R}", RECURSIVE),
    ("held deep thinking tag cut", f"<deep_thinking>\nLet me see\n{D}", ""),
    ("held details", f"<details><summary>Thinking</summary>\n\n{D}\n</details>\n\n{R}", RECURSIVE),
    (
        "held commentary channel",
        f"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>{D}<|end|><|start|>assistant<|channel|>final<|message|>{R}",
        RECURSIVE,
    ),
    ("held gemma channel", f"<|channel>thought\n{D}<channel|>{R}<turn|>", RECURSIVE),
    ("held pangu", f"[unused16]{D}[unused17]{R}", RECURSIVE),
    ("held inner prefix", f"<|inner_prefix|>{D}<|inner_suffix|>{R}", RECURSIVE),
    ("held analysis tag then answer", f"<analysis>{D}</analysis>\n<answer>{R}</answer>", RECURSIVE),
    ("held draft in think after prose", f"Let me think.\n<think>\n{D}</think>\nSo\n{R}", RECURSIVE),
    ("held two thinks", f"<think>\n{D}</think>\nHmm.\n<think>\n{block(TINY)}</think>\n{R}", RECURSIVE),
    ("held stray closing tag after draft", f"{D}\nno wait </think> {R}", RECURSIVE),
    ("held reason tag cut in the block", "<reasoning>\nI try\n```python\nimport sys\n", ""),
    ("held os.read", block(OS_READ) + "For `1 2`:\n" + block("2\n", "text"), OS_READ),
    (
        "held function and checks",
        block(FUNCTION) + "Check:\n" + block("assert is_even(2)\nassert not is_even(3)\n"),
        FUNCTION,
    ),
    (
        "held function and loop of use",
        block(FUNCTION) + block("for i in range(3):\n    print(i, is_even(i))\n"),
        FUNCTION,
    ),
    ("held function and pip", block("pip install numpy\n", "bash") + block(FUNCTION), FUNCTION),
    ("held Python 2", f"Here:\n{block(PYTHON2)}", PYTHON2),
    ("held Python 2 and its output", block(PYTHON2) + "prints\n" + block("0\n1\n4\n", ""), PYTHON2),
    ("held diff after", R + "Against before:\n" + block("-    return 1\n+    return 2\n", "diff"), RECURSIVE),
    ("held complexity formula", R + "Cost\n" + block("T(n) = T(n - 1) + O(1)\n", ""), RECURSIVE),
    ("held trace after", R + block("ways(2) = ways(1) + ways(0) = 2\n", "text"), RECURSIVE),
    ("held sample pair", "Input\n" + block("2\n3\n4\n", "") + "Output\n" + block("3\n5\n", "") + R, RECURSIVE),
    ("held three drafts", D + "No.\n" + block(TINY) + "No.\n" + R, RECURSIVE),
    ("held sentence of fences", "Write ```code``` so.\n" + R, RECURSIVE),
    ("held inline python before", "`n` is read by `input()`; ```x = 1``` is no program.\n" + R, RECURSIVE),
    ("held six backticks", block(RECURSIVE, "python", "``````"), RECURSIVE),
    ("held closing shorter than the opening", f"````python\n{RECURSIVE}```\nDone.", RECURSIVE),
    ("held tab indented fence", f"\t```python\n{indented(RECURSIVE, chr(9))}\t```", RECURSIVE),
    (
        "held quote within list",
        "- > ```python\n" + "".join(f"  > {x}" for x in RECURSIVE.splitlines(keepends=True)) + "  > ```\n",
        RECURSIVE,
    ),
    ("held answer tag without fence", f"<think>\n{D}</think>\n<answer>\n{RECURSIVE}</answer>", RECURSIVE),
    ("held python tag without fence", f"Code: <python>\n{RECURSIVE}</python>", RECURSIVE),
    (
        "held bare then explanation",
        f"{RECURSIVE}\nThe recursion is cached, so each state is computed only once.",
        RECURSIVE,
    ),
    (
        "held bare between prose",
        f"The program is this one.\n\n{RECURSIVE}\nEach state is computed only once.",
        RECURSIVE,
    ),
    ("held prefilled fence", f"{RECURSIVE}```", RECURSIVE),
    ("held prefilled fence and example", f"{RECURSIVE}```\nExample:\n```\n3\n```\n", RECURSIVE),
    ("held end of sentence token", f"```python\n{RECURSIVE}```<｜end▁of▁sentence｜>", RECURSIVE),
    ("held instruction turn after", f"{R}[INST] Explain. [/INST] It adds.\n{D}", RECURSIVE),
    ("held fence in f-string", block('n = input()\nprint(f"```{n}```")\n'), 'n = input()\nprint(f"```{n}```")\n'),
    ("held module docstring of a fence alone", block('"""\n```\n"""\n' + OS_READ), '"""\n```\n"""\n' + OS_READ),
    ("held apology", "Sorry, as an AI model I can not run ```python``` here.", ""),
]

SEARCH = '''\
def solve(a, k):
    """Binary search on the answer; feasible() is monotone."""
    low, high = 0, max(a)
    while low < high:
        middle = (low + high) // 2
        if feasible(a, k, middle):
            high = middle
        else:
            low = middle + 1
    return low


def feasible(a, k, limit):
    """Whether k parts of at most `limit` suffice."""
    return sum(-(-x // limit) for x in a if limit) <= k


n, k = map(int, input().split())
a = list(map(int, input().split()))
print(solve(a, k))
'''
FEASIBLE = SEARCH[SEARCH.index("def feasible") : SEARCH.index("n, k =")]
FENCED_SEARCH = SEARCH.replace("answer; ", "answer.\n\n    ```python\n    solve([1], 1)\n    ```\n    ")
LINKED = """\
# Definition for singly-linked list.
# class ListNode:
#     def __init__(self, val=0, next=None):
#         self.val = val
#         self.next = next
class Solution:
    def middleNode(self, head: Optional[ListNode]) -> Optional[ListNode]:
        slow = fast = head
        while fast and fast.next:
            slow, fast = slow.next, fast.next.next
        return slow
"""
ASYNC = '''\
import asyncio


async def main():
    """Reads from a thread."""
    line = await asyncio.to_thread(input)
    print(int(line) + 1)


asyncio.run(main())
'''
LINES = "from sys import stdin\nfor line in stdin:\n    print(line[::-1].strip())\n"
STRIP = "import re, sys\nprint(re.sub(r'```\\w*', '', sys.stdin.read()))\n"
STRESS = "import random\nfor _ in range(9):\n    a = [random.randint(1, 9)]\n    assert solve(a, 8) == slow(a, 8)\n"
DOC_CUT = 'def f(x):\n    """Does.\n\n    ```\n    f(3)\n    ```\n    More.\n\n    Args'
B = block(SEARCH)

HELD_OUT += [
    ("held html", f'<pre><code class="language-python">\n{SEARCH}</code></pre>', SEARCH),
    ("held fence within html", f"<div>\n\n{B}\n</div>", SEARCH),
    ("held headings", f"## Approach\nSearch.\n\n## Code\n\n{B}\n## Complexity\n- Time: $O(n\\log n)$\n", SEARCH),
    ("held numbered label", f"**3) Implementation** ```python3\n{SEARCH}```", SEARCH),
    ("held colon without space", f"代码：```python\n{SEARCH}```\n", SEARCH),
    ("held arrow", f"→ ```py\n{SEARCH}``` ←", SEARCH),
    ("held bold fence", f"**```python\n{SEARCH}```**", SEARCH),
    ("held closing bracket", f"(```python\n{SEARCH}```)", SEARCH),
    ("held tag with comment", block(SEARCH, "python # solution"), SEARCH),
    ("held tag with line numbers", block(SEARCH, "python {linenos=table}"), SEARCH),
    ("held attributes", block(SEARCH, '{.python .numberLines startFrom="1"}'), SEARCH),
    ("held sage tag", block(SEARCH, "sage"), SEARCH),
    ("held text tag", block(SEARCH, "text"), SEARCH),
    ("held plaintext and example", block(SEARCH, "plaintext") + block("solve([1], 1)\n"), SEARCH),
    ("held linked list", block(LINKED) + "Then\n" + block("s = Solution()\nprint(s.middleNode(head).val)\n"), LINKED),
    ("held linked list bare", LINKED, LINKED),
    ("held async", block(ASYNC) + "prints `4` for `3`", ASYNC),
    ("held async and trace", block(ASYNC) + block("3\n", "") + block("4\n", ""), ASYNC),
    ("held stdin loop", block(LINES) + block("echo abc | python3 a.py\n", "sh"), LINES),
    ("held stdin loop and constant check", block(LINES) + block("print('abc'[::-1])\n"), LINES),
    ("held checks", B + block("assert solve([3], 3) == 1\nprint('ok')\n"), SEARCH),
    ("held stress test", B + "Stress test:\n" + block(STRESS), SEARCH),
    ("held function before", block(FEASIBLE) + "All:\n" + B, SEARCH),
    ("held function after", B + "where\n" + block(FEASIBLE), SEARCH),
    ("held program in the middle", block("low, high = 0, 10\n") + B + block("feasible(a, k, 3)\n"), SEARCH),
    ("held yaml after", B + block("name: test\nvalue: 3\n", "yaml"), SEARCH),
    ("held mermaid after", B + block("graph TD\n  A --> B\n", "mermaid"), SEARCH),
    ("held art after", B + block("  1\n / \\\n2   3\n", ""), SEARCH),
    ("held think with attributes cut", f"<think effort=high>\n{D}", ""),
    ("held reflection cut", f"Let me.\n<reflection>\n{D}hmm", ""),
    ("held cot tag", f"<cot>\n{D}</cot>\n{B}", SEARCH),
    ("held chain_of_thought cut", f"<chain_of_thought>\n{D}", ""),
    ("held inner monologue", f"<inner_monologue>{D}</inner_monologue>\n{B}", SEARCH),
    ("held think closed twice", f"<think>\n{D}</think>\n</think>\n{B}", SEARCH),
    ("held think reopened at the end", f"{B}\n<think>\nIs it right? Let me", SEARCH),
    ("held tag spoken of", f"<think>\nthe tag </think> ends it\n{D}</think>\n{B}", SEARCH),
    ("held reasoning_content", f"<reasoning_content>\n{D}</reasoning_content>\n{B}", SEARCH),
    ("held analysis cut in code", "<|start|>assistant<|channel|>analysis<|message|>```python\nimport sys\n", ""),
    (
        "second final channel cut",
        f"<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>```python\n{SEARCH[:60]}",
        SEARCH[:60],
    ),
    (
        "second seed budget",
        f"<seed:think>\na<seed:cot_budget_reflect>b</seed:cot_budget_reflect>\n{D}</seed:think>{B}",
        SEARCH,
    ),
    ("held fence in a pattern", block(STRIP) + "out\n" + block("a\n", ""), STRIP),
    (
        "held html program",
        block("print('<think>' + input() + '</think>')\n"),
        "print('<think>' + input() + '</think>')\n",
    ),
    (
        "held token in the program",
        block("print(input().strip('<|im_end|>'))\n"),
        "print(input().strip('<|im_end|>'))\n",
    ),
    ("held user turn", f"{B}<|user|>\nthanks\n<|assistant|>\n{D}", SEARCH),
    ("held start_of_turn", f"{B}<end_of_turn>\n<start_of_turn>user\n{D}", SEARCH),
    ("held </s>", f"```python\n{SEARCH}```</s>", SEARCH),
    ("held tagged fence in a docstring", block(FENCED_SEARCH, ""), FENCED_SEARCH),
    ("held cut in a docstring", f"```python\n{DOC_CUT}", DOC_CUT),
    ("held fenced prose", "My notes:\n```\nThe sum is hard to bound.\n```\n", "The sum is hard to bound.\n"),
    ("held single quotes", f"'''python\n{SEARCH}'''", SEARCH),
    ("held lstlisting", f"\\begin{{lstlisting}}[language=Python]\n{SEARCH}\\end{{lstlisting}}", SEARCH),
    ("held indented code", f"Answer:\n\n{indented(SEARCH)}\nThat is it.", SEARCH),
]
