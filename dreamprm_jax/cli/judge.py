"""Problems are rows of LiveCodeBench, HumanEval, MBPP, evalplus or BigCodeBench (docs/problems.md). Candidates are an
eval_all file, evalplus samples, JSON lines or Parquet (docs/your_own_data.md). Each verdict is written to --output as
it arrives; after an interruption, the same command resumes.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dreamprm_jax.cli.options import add_judge_arguments, sandbox_config
from dreamprm_jax.problems.candidates import Candidate, CandidateStream
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.problem_files import read_for_judging
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import JudgeResult, JudgeTask, safe_text
from dreamprm_jax.schema import DataError, Problem, Skip, Verdict, content_hash
from dreamprm_jax.storage import atomic_path, check_ending, write_table

_DIGEST_DIGITS = 16
_ROWS_OF_A_TABLE = 1000
_TEXTS = ("problem_id", "program_hash", "verdict", "error", "mode", "tier", "digest")
_OTHERS = {"sample_index": pa.int64(), "tests_passed": pa.int64(), "tests_total": pa.int64()}
SCHEMA = pa.schema(
    {**dict.fromkeys(_TEXTS, pa.string()), **_OTHERS, "cpu_seconds": pa.float64(), "codes": pa.list_(pa.int64())}
)


_REPORT = {
    **dict.fromkeys(("verdict", "error", "expected", "got", "stderr"), pa.string()),
    **dict.fromkeys(("cpu_seconds", "wall_seconds"), pa.float64()),
    **dict.fromkeys(("peak_bytes", "exit_status", "signal"), pa.int64()),
    "denied": pa.list_(pa.string()),
}
_TESTS = pa.list_(pa.struct(list(_REPORT.items())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--problems", required=True, type=Path, help="problems: a file or a folder")
    parser.add_argument("--candidates", required=True, type=Path, help="candidates file")
    parser.add_argument("--release", default="release_v6", help="release windows to read if --problems is a folder")
    parser.add_argument("--output", type=Path, help="file for the verdicts: .jsonl, .csv or .parquet")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="reuse verdicts in --output that were made with the same programs, tests and settings",
    )
    add_judge_arguments(parser)
    parser.add_argument(
        "--per-test",
        action="store_true",
        help="add a field `tests` to each row: verdict, time, memory, exit status or signal, standard error, denied "
        "system calls, expected and actual output (truncated) of each judged test; slower, and reveals hidden tests",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    parser.add_argument("--cache", type=Path, help="folder that caches verdicts by content hash")


def main(args: argparse.Namespace) -> int:
    """Judges the candidates.

    Returns:
      0 if every candidate has a verdict, 1 if some have none (invalid tasks, sandbox errors, unknown problems).

    Raises:
      DataError: on unusable input.
    """
    output = args.output
    if output is not None:
        check_ending(output)
        if output.suffix != ".jsonl":
            output = output.with_name(f"{output.name}.jsonl")  # holds the verdicts as they arrive
    file = CandidateStream(args.candidates, args.strict)
    skips: list[Skip] | None = None if args.strict else []
    with tempfile.TemporaryDirectory() as folder:
        hidden = Path(folder) / "hidden_tests.parquet"
        config = sandbox_config(args)
        problems, tests = read_for_judging(
            str(args.problems), hidden, file.problem_ids, args.release, skips=skips, packages=config.packages
        )
        file.complete(problems)
        known = sum(count for problem_id, count in file.counts.items() if problem_id in problems)
        if not known:
            raise DataError(f"{args.candidates}: no candidate belongs to a problem of {args.problems}")
        with Judge.from_config(config, args.cache, args.per_test) as judge:
            judge.limits.check_references(problems.values(), args.problems)
            summary = _judge(judge, file, known, problems, tests, output, args.resume, args.per_test)
    print("\n".join([*summary.lines(args.mode, args.tier), *_left_out(file, known, problems, skips or [])]))
    if args.output is not None:
        if output != args.output:
            schema = SCHEMA.append(pa.field("tests", _TESTS)) if args.per_test else SCHEMA
            with open(output, encoding="utf-8") as lines:
                rows = map(json.loads, lines)
                tables = (
                    pa.Table.from_pylist(part, schema)
                    for part in iter(lambda: list(itertools.islice(rows, _ROWS_OF_A_TABLE)), [])
                )
                write_table(args.output, schema, tables)
        print(f"verdicts written to {args.output}")
    return 0 if all(verdict.is_label for verdict in summary.counts) and known == file.counts.total() else 1


@dataclass
class _Summary:
    """The summary printed at the end: only counts, so that memory does not grow with the number of programs."""

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
        return [*lines, f"  CPU time {self.cpu_seconds:.1f} s in total, at most {seconds:.2f} s (program {key})"]


def _judge(
    judge: Judge,
    file: CandidateStream,
    known: int,
    problems: dict[str, Problem],
    tests: HiddenTests,
    output: Path | None,
    resume: bool,
    per_test: bool,
) -> _Summary:
    """Judges the candidates. Writes each verdict to ``output`` as soon as all earlier ones are written."""

    def task(candidate: Candidate) -> JudgeTask:
        problem = problems[candidate.program.problem_id]
        program = candidate.program
        return JudgeTask.of(problem, program.program_hash, program.code, tests.all_of(problem))

    @functools.cache
    def digest(problem_id: str) -> str:  # covers everything except the code, which has its own hash
        problem = problems[problem_id]
        settings = judge.digest(JudgeTask.of(problem, "", "", ()))
        return content_hash(settings, tests.digest(problem), *["per-test"][:per_test], digits=_DIGEST_DIGITS)

    def key(candidate: Candidate) -> tuple[str, str, int, str]:
        program = candidate.program
        return program.problem_id, program.program_hash, program.sample_index, digest(program.problem_id)

    def candidates() -> Iterator[Candidate]:
        return (candidate for candidate in file if candidate.program.problem_id in problems)

    summary = _Summary()
    kept = _kept(output) if output is not None and resume else {}
    if kept:
        wanted = {name for candidate in candidates() if (name := _short(key(candidate))) in kept}
        kept = {name: kept[name] for name in wanted}
    begun: collections.deque[Candidate] = collections.deque()

    def missing() -> Iterator[JudgeTask]:
        for candidate in candidates():
            if (done := kept.get(_short(key(candidate)))) is not None:
                summary.kept += 1
                summary.add(candidate, *done)
            else:
                begun.append(candidate)
                yield task(candidate)

    with ExitStack() as stack:
        handle = None
        if output is not None:
            with atomic_path(output) as temporary, open(temporary, "w", encoding="utf-8") as kept_lines:
                kept_lines.writelines(_lines_of(output, set(kept)))
            handle = stack.enter_context(open(output, "a", encoding="utf-8", buffering=1))
        progress = stack.enter_context(Progress("judge", known, "program", len(kept)))
        for result in judge.evaluate(missing()):
            candidate = begun.popleft()
            summary.add(candidate, result.verdict, result.cpu_seconds)
            progress.note(passed=summary.counts[Verdict.AC])
            progress.add()
            if handle is not None:
                handle.write(json.dumps(_row(key(candidate), result), ensure_ascii=False) + "\n")
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


def _short(key: tuple[str, str, int, str]) -> bytes:
    """A key of 12 bytes, to save memory."""
    return hashlib.sha256(json.dumps(key).encode()).digest()[:12]


def _kept(path: Path) -> dict[bytes, tuple[Verdict, float]]:
    """The verdicts and CPU times that an earlier run wrote, by key."""
    return {name: found for _, name, found in _read_verdicts(path)}


def _lines_of(path: Path, wanted: set[bytes]) -> Iterator[str]:
    """The lines with the keys in ``wanted``, one per key."""
    for line, name, _ in _read_verdicts(path):
        if name in wanted:
            wanted.remove(name)
            yield line


def _read_verdicts(path: Path) -> Iterator[tuple[str, bytes, tuple[Verdict, float]]]:
    """Yields (line, key, (verdict, CPU seconds)) for each complete line whose verdict is a label."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                key = (row["problem_id"], row["program_hash"], row["sample_index"], row["digest"])
                found = Verdict(row["verdict"]), float(row["cpu_seconds"])
            except (ValueError, KeyError, TypeError):
                continue
            if found[0].is_label and line.endswith("\n"):
                yield line, _short(key), found


def _left_out(file: CandidateStream, known: int, problems: dict[str, Problem], skips: list[Skip]) -> list[str]:
    """What was not judged, and why."""
    numbers = {
        "candidates without usable code (not judged)": file.unusable,
        "candidates of unknown problems (not judged)": file.counts.total() - known,
        "problems that cannot be used (left out)": len(skips),
        "problems without a candidate": len(problems.keys() - file.counts.keys()),
    }
    lines = [f"  {title}: {number}" for title, number in numbers.items() if number]
    return lines + [
        safe_text(f"  {skip.source}: {skip.row}: {skip.reason}", 300) for skip in [*skips[:10], *file.skips[:10]]
    ]
