"""Makes a folder with the shape of the LiveCodeBench data set: file names, dates, official encoding, hidden tests.

    python benchmarks/livecodebench_folder.py --output=DIR [--problems=700] [--gigabytes=4] [--largest-mb=80]

The hub's files hold 880 and more problems whose hidden tests are a few kilobytes to 80 MB, half of them below some
100 kB, gigabytes in all. The problems here are invented (count a byte of a text, in three functions), so that a program
costs little more than reading its input, and what is measured is the pipeline. Beside the rows lies ``programs.jsonl``,
four programs a problem: one right, one that fails the last hidden test only, two that fail the first public test.
"""

from __future__ import annotations

import argparse
import base64
import json
import pickle
import random
import statistics
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
FIRST, LAST = datetime(2023, 5, 1), datetime(2025, 4, 6)
TEST_BYTES = 2 << 20  # a problem has enough tests that none is much larger
PROGRAMS = "programs.jsonl"


def sizes(problems: int, total: int, largest: int) -> list[int]:
    """Bytes of hidden tests of each problem: log-normal, cut at ``largest``, with the sum ``total``.

    The spread is that of LiveCodeBench: the median is some hundredth of the largest or less.
    """
    normal = statistics.NormalDist(sigma=3.4)
    spread = [2.718281828 ** normal.inv_cdf((i + 0.5) / problems) for i in range(problems)]
    low, high = 0.0, float(largest)
    for _ in range(200):  # the scale at which the sum is right
        scale = (low + high) / 2
        if sum(min(largest, scale * one) for one in spread) < total:
            low = scale
        else:
            high = scale
    return [max(40, int(min(largest, high * one))) for one in spread]


class Texts:
    """Texts of digits that zlib cannot shrink much, cut out of one pool."""

    def __init__(self, seed: int, pool: int = 8 << 20) -> None:
        self._random = random.Random(seed)
        digits = bytes(b"0123456789"[byte % 10] for byte in range(256))
        self._pool = self._random.randbytes(pool).translate(digits).decode("ascii")
        self._size = len(self._pool)

    def text(self, size: int) -> str:
        start = self._random.randrange(self._size - size)
        return self._pool[start : start + size]


def tests_of(texts: Texts, size: int, digit: str) -> list[dict[str, str]]:
    """Tests whose inputs have so many bytes in all: half of them small."""
    small = [max(1, min(1000, size // 20))] * 10
    rest = max(0, size - sum(small))
    large = [rest // (rest // TEST_BYTES + 1)] * (rest // TEST_BYTES + 1) if rest else []
    tests = []
    for length in (*small, *large):
        text = texts.text(length)
        tests.append({"input": text + "\n", "output": f"{text.count(digit)}\n", "testtype": "stdin"})
    # only a program that looks at the whole text passes the last test
    text = texts.text(max(1, min(1000, size // 20)))
    text = text + digit * 3 + "!"
    tests.append({"input": text + "\n", "output": f"{text.count(digit)}\n", "testtype": "stdin"})
    return tests


def packed(tests: list[dict[str, str]]) -> str:
    """The official encoding of private tests: base64(zlib(pickle(JSON)))."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)), 1)).decode("ascii")


def programs_of(digit: str) -> list[str]:
    """Four programs that share their prefixes two by two."""
    read = "import sys\n\n\ndef read_text():\n    return sys.stdin.read().strip()\n\n\n"
    right = f"def occurrences(text):\n    return text.count({digit!r})\n\n\n"
    wrong = f"def occurrences(text):\n    return text.count({digit!r}) + 1\n\n\n"
    show = "def main():\n    print(occurrences(read_text()))\n\n\nmain()\n"
    late = "def main():\n    text = read_text()\n    print(occurrences(text) - text.endswith('!'))\n\n\nmain()\n"
    return [read + right + show, read + right + late, read + wrong + show, read + wrong + late]


def rows(problems: int, total: int, largest: int, seed: int) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """(file name, official row, programs) of every problem, in the order of dates."""
    wanted = sizes(problems, total, largest)
    random.Random(seed).shuffle(wanted)
    texts = Texts(seed)
    for index, size in enumerate(wanted):
        digit, date = str(index % 10), FIRST + (LAST - FIRST) * index / problems
        public = tests_of(texts, 200, digit)[:2]
        row = {
            "question_title": f"Count {digit} ({index})",
            "question_content": f"A text stands on one line. Print how often the digit {digit} occurs. Task {index}.",
            "platform": ("atcoder", "leetcode", "codeforces")[index % 3],
            "question_id": f"made_{index:04d}",
            "contest_id": f"made{index // 4}",
            "contest_date": (date - timedelta(microseconds=date.microsecond)).isoformat(),
            "starter_code": "",
            "difficulty": ("easy", "medium", "hard")[index % 3],
            "public_test_cases": json.dumps(public),
            "private_test_cases": packed(tests_of(texts, size, digit)),
            "metadata": "{}",
        }
        yield FILES[index * len(FILES) // problems], row, programs_of(digit)


def make_folder(output: Path, problems: int, total: int, largest: int, seed: int = 0) -> None:
    """Writes the six files and the programs. ``total`` and ``largest`` are bytes of hidden test input."""
    output.mkdir(parents=True, exist_ok=True)
    handles = {name: open(output / name, "w", encoding="utf-8") for name in (*FILES, PROGRAMS)}  # noqa: SIM115
    try:
        for name, row, programs in rows(problems, total, largest, seed):
            handles[name].write(json.dumps(row) + "\n")
            for code in programs:
                handles[PROGRAMS].write(json.dumps({"problem_id": row["question_id"], "code": code}) + "\n")
    finally:
        for handle in handles.values():
            handle.close()


def main() -> None:
    """Makes a folder and prints what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--problems", type=int, default=700)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--largest-mb", type=float, default=80.0)
    args = parser.parse_args()
    total, largest = int(args.gigabytes * 1e9), int(args.largest_mb * 1e6)
    make_folder(args.output, args.problems, total, largest)
    made = sorted(sizes(args.problems, total, largest))
    print(
        f"{args.output}: {len(made)} problems, {sum(made) / 1e9:.2f} GB of hidden tests, median "
        f"{made[len(made) // 2] / 1e3:.0f} kB, largest {made[-1] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
