"""How often the right program is taken from an answer: by this package's rule and by LiveCodeBench's.

    python benchmarks/extraction.py [--answers=FILE.jsonl] [--failures]

The answers are those of ``tests/cof/answer_corpus.py``, or the rows {answer, program} of a file. The official rule is
that of lcb_runner/utils/extraction_utils.py at commit 28fef95: the lines between the last two lines with a fence. A
program counts as right if it equals the expected one up to white space at its ends.

The corpus was at hand while the rule was made. The held-out answers were written afterwards, in batches; at first sight
the rule gave 43 of 45 and 48 of 52. It was then mended, so the score printed is not that of unseen answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dreamprm_jax.cof.extract import extract_code
from dreamprm_jax.problems.json_rows import read_jsonl, text_field

Case = tuple[str, str, str]  # name, answer, program


def official(answer: str) -> str:
    """What LiveCodeBench's evaluator takes from a chat model's answer."""
    lines = answer.split("\n")
    fences = [index for index, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, help="a .jsonl file of {answer, program} in place of the corpus")
    parser.add_argument("--failures", action="store_true", help="name the answers that this package's rule gets wrong")
    arguments = parser.parse_args()
    if arguments.answers:
        rows = read_jsonl(arguments.answers)
        sets = {
            "file": [
                (where, text_field(row, "answer", where), text_field(row, "program", where)) for where, row in rows
            ]
        }
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cof"))
        import answer_corpus

        sets = {"corpus": answer_corpus.CORPUS, "held out": answer_corpus.HELD_OUT}
    print(f"{'answers':<10} {'number':>7} {'this package':>13} {'official':>9}")
    for name, cases in sets.items():
        ours = [_same(extract_code(answer), program) for _, answer, program in cases]
        theirs = [_same(official(answer), program) for _, answer, program in cases]
        print(f"{name:<10} {len(cases):>7} {_share(ours):>13} {_share(theirs):>9}")
        if arguments.failures:
            print(
                "".join(f"  wrong: {case[0]}\n" for case, right in zip(cases, ours, strict=True) if not right), end=""
            )


def _same(found: str, expected: str) -> bool:
    return found.strip() == expected.strip()


def _share(results: list[bool]) -> str:
    return f"{sum(results) / max(len(results), 1):.1%}"


if __name__ == "__main__":
    main()
