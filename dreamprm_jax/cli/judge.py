"""Judges a file of candidate programs on a file of problems, and prints a summary by verdict.

Problems are rows of LiveCodeBench, HumanEval, MBPP, evalplus or BigCodeBench (docs/problems.md); candidates an eval_all
file, evalplus samples, JSON lines or Parquet (docs/your_own_data.md). Verdicts are written to --output
as they come; if the command is stopped, the same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.candidates import Candidate, CandidateFile, read_candidates
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.problem_files import read_for_judging
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import MODES, TIERS, JudgeResult, JudgeTask, Limits, safe_text
from dreamprm_jax.schema import DataError, Problem, Skip, Verdict, content_hash
from dreamprm_jax.storage import atomic_path, check_ending, read_table, write_table

_DEFAULTS = SandboxConfig()
_DIGEST_DIGITS = 16
_TEXTS = ("problem_id", "program_hash", "verdict", "error", "mode", "tier", "digest")
_OTHERS = {"sample_index": pa.int64(), "tests_passed": pa.int64(), "tests_total": pa.int64()}
SCHEMA = pa.schema(
    {**dict.fromkeys(_TEXTS, pa.string()), **_OTHERS, "cpu_seconds": pa.float64(), "codes": pa.list_(pa.int64())}
)


_REPORT = {
    **dict.fromkeys(("verdict", "error", "expected", "got", "stderr"), pa.string()),
    **dict.fromkeys(("cpu_seconds", "wall_seconds"), pa.float64()),
    **dict.fromkeys(("peak_bytes", "exit_status", "signal"), pa.int64()),
}
_TESTS = pa.list_(pa.struct(list(_REPORT.items())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--problems", required=True, type=Path, help="problems file or folder")
    parser.add_argument("--candidates", required=True, type=Path, help="candidates file")
    parser.add_argument("--release", default="release_v6", help="release windows to read, where --problems is a folder")
    parser.add_argument("--output", type=Path, help="write the verdicts here: .jsonl, as they come, .csv or .parquet")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="reuse the verdicts in --output that are of the same programs, tests and settings",
    )
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
    parser.add_argument(
        "--checker",
        default="",
        help="how answers are compared, where a problem's own field checker does not say: words of exact, tokens, "
        "unordered, ignore_case, any_of, abs=X, rel=X; or FILE.py:FUNCTION(input, expected, answer), which runs in the "
        "sandbox; empty: as the official evaluator does",
    )
    parser.add_argument(
        "--packages",
        default=",".join(_DEFAULTS.packages),
        help="third-party packages that programs may import: import names, dependencies included",
    )
    parser.add_argument(
        "--per-test",
        action="store_true",
        help="add to each row a field tests: verdict, time, memory, exit status or signal, standard error, expected "
        "and got (cut) of each judged test; slower, and it shows hidden tests",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    parser.add_argument("--cache", type=Path, help="folder of verdicts kept by content hash")


def main(args: argparse.Namespace) -> int:
    """Judges the candidates.

    Returns:
      0 if every candidate has a verdict, 1 if some have none (invalid tasks, sandbox errors), 2 on unusable input.
    """
    output = args.output
    if output is not None:
        check_ending(output)
        if output.suffix != ".jsonl":
            output = output.with_name(f"{output.name}.jsonl")  # the verdicts as they come
    file = read_candidates(args.candidates, args.strict)
    skips: list[Skip] | None = None if args.strict else []
    with tempfile.TemporaryDirectory() as folder:
        hidden = Path(folder) / "hidden_tests.parquet"
        problems, tests = read_for_judging(str(args.problems), hidden, file.problem_ids, args.release, skips=skips)
        file = file.completed(problems)
        known, unknown = _split(file, problems)
        if not known:
            raise DataError(f"{args.candidates}: no candidate belongs to a problem of {args.problems}")
        limits = Limits(args.cpu_seconds, args.wall_seconds, args.memory_bytes, args.output_bytes)
        comparison = Comparison.parse(args.checker, "--checker")
        with Judge(
            args.mode,
            args.tier,
            limits,
            args.workers,
            args.cache,
            comparison=comparison,
            per_test=args.per_test,
            packages=args.packages.replace(",", " ").split(),
        ) as judge:
            summary = _judge(judge, known, problems, tests, output, args.resume, args.per_test)
    print("\n".join([*summary.lines(args.mode, args.tier), *_left_out(file, known, unknown, problems, skips or [])]))
    if args.output is not None:
        if output != args.output:
            schema = SCHEMA.append(pa.field("tests", _TESTS)) if args.per_test else SCHEMA
            write_table(args.output, schema, [pa.Table.from_pylist(read_table(output), schema)])
        print(f"verdicts written to {args.output}")
    return 0 if all(verdict.is_label for verdict in summary.counts) and not unknown else 1


def _split(file: CandidateFile, problems: dict[str, Problem]) -> tuple[list[Candidate], list[Candidate]]:
    known = [candidate for candidate in file.usable if candidate.program.problem_id in problems]
    unknown = [candidate for candidate in file.usable if candidate.program.problem_id not in problems]
    return known, unknown


@dataclass
class _Summary:
    """What is said at the end: counts, so that memory does not grow with the number of programs."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    kept: int = 0
    compared: int = 0
    agreed: int = 0
    cpu_seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")

    def add(self, candidate: Candidate, verdict: Verdict, cpu_seconds: float) -> None:
        """Counts one verdict."""
        self.counts[verdict] += 1
        self.cpu_seconds += cpu_seconds
        self.slowest = max(self.slowest, (cpu_seconds, candidate.program.program_hash))
        if candidate.file_passed is not None and verdict.is_label:
            self.compared += 1
            self.agreed += candidate.file_passed == (verdict is Verdict.AC)

    def lines(self, mode: str, tier: str) -> list[str]:
        """The summary by verdict."""
        lines = [f"{self.counts.total()} programs judged, mode {mode}, tier {tier}"]
        if self.kept:
            lines.append(f"  {self.kept} of them by an earlier run of this command")
        lines += [f"  {verdict.value:<14}{self.counts[verdict]:>8}" for verdict in Verdict if self.counts[verdict]]
        labeled = sum(count for verdict, count in self.counts.items() if verdict.is_label)
        if labeled:
            passed = self.counts[Verdict.AC]
            lines.append(f"  passed {passed} of {labeled} with a verdict: {passed / labeled:.1%}")
        if self.compared:
            lines.append(f"  agree with the file's own verdict: {self.agreed} of {self.compared}")
        seconds, key = self.slowest
        return [*lines, f"  CPU time {self.cpu_seconds:.1f} s in all, {seconds:.2f} s for {key}"]


def _judge(
    judge: Judge,
    candidates: list[Candidate],
    problems: dict[str, Problem],
    tests: HiddenTests,
    output: Path | None,
    resume: bool,
    per_test: bool,
) -> _Summary:
    """Judges the candidates; every verdict is in ``output`` as soon as those before it are."""

    def task(candidate: Candidate) -> JudgeTask:
        problem = problems[candidate.program.problem_id]
        program = candidate.program
        return JudgeTask.of(problem, program.program_hash, program.code, tests.all_of(problem))

    @functools.cache
    def digest(problem_id: str) -> str:  # of all but the code, which has a hash of its own
        problem = problems[problem_id]
        settings = judge.digest(JudgeTask("", "", (), problem.func_name))
        return content_hash(settings, tests.digest(problem), *["per-test"][:per_test], digits=_DIGEST_DIGITS)

    def key(candidate: Candidate) -> tuple[str, str, int, str]:
        program = candidate.program
        return program.problem_id, program.program_hash, program.sample_index, digest(program.problem_id)

    summary = _Summary()
    kept = _kept(output) if output is not None and resume else {}
    kept = {name: kept[name] for candidate in candidates if (name := key(candidate)) in kept}
    for candidate in candidates if kept else ():
        if (name := key(candidate)) in kept:
            summary.kept += 1
            summary.add(candidate, Verdict(kept[name]["verdict"]), kept[name]["cpu_seconds"])
    candidates = [candidate for candidate in candidates if not kept or key(candidate) not in kept]
    with ExitStack() as stack:
        handle = None
        if output is not None:
            with atomic_path(output) as temporary:
                temporary.write_text("".join(map(_line, kept.values())), encoding="utf-8")
            handle = stack.enter_context(open(output, "a", encoding="utf-8", buffering=1))
        progress = stack.enter_context(Progress("judge", len(candidates) + summary.kept, "program", summary.kept))
        for candidate, result in zip(candidates, judge.evaluate(map(task, candidates)), strict=True):
            summary.add(candidate, result.verdict, result.cpu_seconds)
            progress.note(passed=summary.counts[Verdict.AC])
            progress.add()
            if handle is not None:
                handle.write(_line(_row(key(candidate), result)))
    return summary


def _row(key: tuple[str, str, int, str], result: JudgeResult) -> dict[str, Any]:
    problem_id, program_hash, sample_index, digest = key
    return {
        "problem_id": problem_id,
        "program_hash": program_hash,
        "sample_index": sample_index,
        "verdict": result.verdict.value,
        "tests_passed": result.tests_passed,
        "tests_total": result.tests_total,
        "error": result.error,
        "cpu_seconds": round(result.cpu_seconds, 4),
        "mode": result.mode,
        "tier": result.tier,
        "codes": list(result.codes),
        "digest": digest,
    } | ({"tests": [dataclasses.asdict(test) for test in result.tests]} if result.tests else {})


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _kept(path: Path) -> dict[tuple[str, str, int, str], dict[str, Any]]:
    """The labels that an earlier run wrote, by what they depend on. A line that is cut off is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            key = (row["problem_id"], row["program_hash"], row["sample_index"], row["digest"])
            if Verdict(row["verdict"]).is_label:
                found[key] = row | {"cpu_seconds": float(row["cpu_seconds"])}
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _left_out(
    file: CandidateFile,
    known: list[Candidate],
    unknown: list[Candidate],
    problems: dict[str, Problem],
    skips: list[Skip],
) -> list[str]:
    """What was not judged, and why."""
    numbers = {
        "candidates without usable code (not judged)": len(file.unusable),
        "candidates of unknown problems (not judged)": len(unknown),
        "problems that cannot be used (left out)": len(skips),
        "problems without a candidate": len(problems.keys() - {c.program.problem_id for c in known}),
    }
    lines = [f"  {title}: {number}" for title, number in numbers.items() if number]
    return lines + [
        safe_text(f"  {skip.source}: {skip.row}: {skip.reason}", 300) for skip in [*skips[:10], *file.skips[:10]]
    ]
