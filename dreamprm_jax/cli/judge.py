"""Judges a file of candidate programs on a file of problems, and prints a summary by verdict.

Problems are LiveCodeBench rows (.jsonl, or a folder in the hub's layout) or this package's Parquet; candidates an
eval_all file, JSON lines or Parquet (``problems.candidates``). The verdict of every candidate goes to --output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.candidates import Candidate, CandidateFile, read_candidates
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.problem_files import read_for_judging
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import MODES, TIERS, JudgeResult, JudgeTask, Limits
from dreamprm_jax.schema import DataError, Problem, Verdict
from dreamprm_jax.storage import atomic_path

_DEFAULTS = SandboxConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--problems", required=True, type=Path, help="problems file or folder")
    parser.add_argument("--candidates", required=True, type=Path, help="candidates file")
    parser.add_argument("--release", default="release_v6", help="release windows to read, where --problems is a folder")
    parser.add_argument("--output", type=Path, help="write one JSON line a candidate here")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="lcb",
        help="lcb: the official evaluator's verdicts, for a reported pass@1; faithful: a real process, for labels",
    )
    parser.add_argument("--tier", choices=TIERS, default=_DEFAULTS.tier, help="isolation that must hold")
    parser.add_argument("--workers", type=int, default=0, help="programs that run at a time; 0: one a core")
    parser.add_argument("--cpu-seconds", type=float, default=_DEFAULTS.cpu_seconds, help="CPU time of a test")
    parser.add_argument("--wall-seconds", type=float, default=_DEFAULTS.wall_seconds, help="wall time of a test")
    parser.add_argument("--memory-bytes", type=int, default=_DEFAULTS.memory_bytes, help="memory of a test")
    parser.add_argument("--output-bytes", type=int, default=_DEFAULTS.output_bytes, help="output of a test")
    parser.add_argument("--cache", type=Path, help="folder of verdicts kept by content hash")
    parser.add_argument("--strict", action="store_true", help="stop at the first candidate that cannot be read")


def main(args: argparse.Namespace) -> int:
    """Judges the candidates.

    Returns:
      0 if every candidate has a verdict, 1 if some have none (invalid tasks, sandbox errors), 2 on unusable input.
    """
    file = read_candidates(args.candidates, args.strict)
    wanted = {candidate.program.problem_id for candidate in file.usable}
    with tempfile.TemporaryDirectory() as folder:
        hidden = Path(folder) / "hidden_tests.parquet"
        problems, tests = read_for_judging(str(args.problems), hidden, wanted, args.release)
        known, unknown = _split(file, problems)
        if not known:
            raise DataError(f"{args.candidates}: no candidate's problem is in {args.problems}")
        limits = Limits(args.cpu_seconds, args.wall_seconds, args.memory_bytes, args.output_bytes)
        with Judge(args.mode, args.tier, limits, args.workers, args.cache) as judge:
            results = list(_judge(judge, known, problems, tests))
    if args.output is not None:
        _write(args.output, known, results)
    print(_summary(file, known, unknown, problems, results, args.mode, args.tier))
    if args.output is not None:
        print(f"verdicts written to {args.output}")
    return 0 if all(result.verdict.is_label for result in results) and not unknown else 1


def _split(file: CandidateFile, problems: dict[str, Problem]) -> tuple[list[Candidate], list[Candidate]]:
    known = [candidate for candidate in file.usable if candidate.program.problem_id in problems]
    unknown = [candidate for candidate in file.usable if candidate.program.problem_id not in problems]
    return known, unknown


def _judge(
    judge: Judge, candidates: list[Candidate], problems: dict[str, Problem], tests: HiddenTests
) -> Iterator[JudgeResult]:
    tasks = (
        JudgeTask(
            candidate.program.program_hash,
            candidate.program.code,
            tests.all_of(problems[candidate.program.problem_id]),
            problems[candidate.program.problem_id].func_name,
        )
        for candidate in candidates
    )
    passed = 0
    with tqdm(judge.evaluate(tasks), "judge", len(candidates), unit="program", smoothing=0.05) as bar:
        for result in bar:
            passed += result.verdict is Verdict.AC
            bar.set_postfix(passed=passed, refresh=False)
            yield result


def _write(path: Path, candidates: list[Candidate], results: list[JudgeResult]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for candidate, result in zip(candidates, results, strict=True):
            row = {
                "problem_id": candidate.program.problem_id,
                "program_hash": candidate.program.program_hash,
                "sample_index": candidate.program.sample_index,
                "verdict": result.verdict.value,
                "tests_passed": result.tests_passed,
                "tests_total": result.tests_total,
                "error": result.error,
                "cpu_seconds": round(result.cpu_seconds, 4),
                "mode": result.mode,
                "tier": result.tier,
                "codes": list(result.codes),
            }
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def _summary(
    file: CandidateFile,
    known: list[Candidate],
    unknown: list[Candidate],
    problems: dict[str, Problem],
    results: list[JudgeResult],
    mode: str,
    tier: str,
) -> str:
    counts = Counter(result.verdict for result in results)
    lines = [f"{len(results)} programs judged, mode {mode}, tier {tier}"]
    lines += [f"  {verdict.value:<14}{counts[verdict]:>8}" for verdict in Verdict if counts[verdict]]
    labelled = sum(count for verdict, count in counts.items() if verdict.is_label)
    if labelled:
        lines.append(f"  passed {counts[Verdict.AC]} of {labelled} with a verdict: {counts[Verdict.AC] / labelled:.1%}")
    compared = [
        candidate.file_passed == (result.verdict is Verdict.AC)
        for candidate, result in zip(known, results, strict=True)
        if candidate.file_passed is not None and result.verdict.is_label
    ]
    if compared:
        lines.append(f"  agree with the file's own verdict: {sum(compared)} of {len(compared)}")
    for title, number in (
        ("candidates without usable code (not judged)", len(file.unusable)),
        ("candidates of unknown problems (not judged)", len(unknown)),
        ("problems without a candidate", len(problems.keys() - {c.program.problem_id for c in known})),
    ):
        if number:
            lines.append(f"  {title}: {number}")
    lines += [f"  {skip.source}: {skip.row}: {skip.reason}" for skip in file.skips[:10]]
    slowest = max(results, key=lambda result: result.cpu_seconds, default=None)
    if slowest is not None:
        total = sum(result.cpu_seconds for result in results)
        lines.append(f"  CPU time {total:.1f} s in all, {slowest.cpu_seconds:.2f} s for {slowest.key}")
    return "\n".join(lines)
