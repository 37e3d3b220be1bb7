"""Whether mode ``lcb`` equals the official LiveCodeBench evaluator, and ``faithful`` a plain ``python -I`` process.

    python benchmarks/judge_parity.py [--official=LIVECODEBENCH_CHECKOUT]

Runs the programs of ``tests/sandbox/official_corpus.py`` and ``test_script_corpus.py``. The official results are those
recorded; with a checkout (commit 28fef95; it needs numpy and tqdm) the evaluator runs them again, live.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sandbox"))
import official_corpus
import test_official_corpus
import test_script_corpus

from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import TestCase, Verdict


def main() -> None:
    """Compares and prints a table of counts, then each difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", help="checkout of the LiveCodeBench repository")
    options = parser.parse_args()
    rows = official_corpus.corpus()
    rows += [
        official_corpus.returning(value, expected)
        for value in official_corpus.returned()
        for expected in official_corpus.expected_values()
    ]
    if options.official:
        official_corpus.load_official(options.official)
        sys.argv[1:] = []
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # some programs write files
            official = [official_corpus.official_codes(row) for row in rows]
    else:
        recorded = json.loads(official_corpus.RECORDED.read_text())
        official = [recorded[row["key"]] for row in rows if not row["key"].startswith("value:")]
        official += [[code] for value in official_corpus.returned() for code in recorded[f"value:{value}"]]
    with Judge("lcb") as judge:
        ours = [list(result.codes) for result in judge.evaluate(map(test_official_corpus.task, rows))]
    # of a returned value the official list may hold the array of a comparison before the code
    values = [row["key"].startswith("value:") for row in rows]
    other = [
        (row["key"], row["outputs"], here, there)
        for row, here, there, value in zip(rows, ours, official, values, strict=True)
        if (here[-1:] != there[-1:] if value else here != there)
    ]
    codes = test_script_corpus.CORPUS
    with tempfile.TemporaryDirectory() as folder:
        plain = [test_script_corpus.plain(code, Path(folder)) for code in codes]
    tasks = [
        JudgeTask(code, code, (TestCase(test_script_corpus.INPUT, output),))
        for code, (_, output) in zip(codes, plain, strict=True)
    ]
    with Judge("faithful") as judge:
        passed = [result.verdict is Verdict.AC for result in judge.evaluate(tasks)]
    scripts = [code for code, here, (status, _) in zip(codes, passed, plain, strict=True) if here != (status == 0)]
    print(f"official results {'live' if options.official else 'as recorded'}, Python {sys.version.split()[0]}")
    print(f"{'compared':<44}{'cases':>8}{'equal':>8}")
    print(f"{'lcb: programs and values, result lists':<44}{len(rows):>8}{len(rows) - len(other):>8}")
    print(f"{'faithful: scripts, pass or fail':<44}{len(codes):>8}{len(codes) - len(scripts):>8}")
    for difference in [*other, *scripts]:
        print(f"differs: {difference!a}")


if __name__ == "__main__":
    main()
