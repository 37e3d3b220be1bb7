"""Problems are converted from every supported format (docs/problems.md) to LiveCodeBench rows (.jsonl) or Parquet. With
--verify, each problem's reference solution is judged, and problems whose reference fails are left out.

Candidates are converted from every supported format to evalplus samples (.jsonl), the input of LiveCodeBench's custom
evaluator (.json) or Parquet. --problems is needed for completions and for lists without problem ids.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dreamprm_jax.cli.options import add_judge_arguments, sandbox_config
from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.candidates import read_candidates, write_samples
from dreamprm_jax.problems.livecodebench import row_of_problem
from dreamprm_jax.problems.problem_files import iterate_problems
from dreamprm_jax.runs.progress import progress_of
from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import JudgeTask
from dreamprm_jax.schema import DataError, Problem, Program, Skip, TestedProblem, Verdict
from dreamprm_jax.storage import atomic_path, write_json, write_records

_SHOWN = 10  # skipped rows printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--problems", metavar="FILE", help="problems: a file or a folder")
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="convert these candidates instead of the problems"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="output file; its extension selects the format"
    )
    parser.add_argument("--release", default="release_v6", help="release windows to read if --problems is a folder")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="leave out problems whose reference solution fails in the sandbox, and record "
        "the CPU time of the others as reference_seconds",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    add_judge_arguments(parser.add_argument_group("judge, for --verify"), "faithful")


def main(args: argparse.Namespace) -> int:
    """Converts one file. Returns the exit status."""
    skips: list[Skip] = []
    if args.candidates:
        written = _candidates(args, skips)
    elif args.problems:
        written = _problems(args, skips)
    else:
        raise DataError("convert: give --problems=FILE or --candidates=FILE")
    for skip in skips[:_SHOWN]:
        print(f"left out: {skip.source}, {skip.row}: {skip.reason}")
    if len(skips) > _SHOWN:
        print(f"left out: {len(skips) - _SHOWN} more")
    print(f"{written} written to {args.output}; {len(skips)} left out")
    return 0


def _problems(args: argparse.Namespace, skips: list[Skip]) -> str:
    references: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    config, bad = sandbox_config(args), None if args.strict else skips
    rows = iterate_problems(args.problems, args.release, skips=bad, references=references, packages=config.packages)
    rows = progress_of(rows, "read problems", None, "problem")
    if args.verify:
        rows = _verified(rows, references, config, skips)

    def counted(problems: Iterable[TestedProblem]) -> Iterator[TestedProblem]:
        for problem in problems:
            kinds[problem.tests[0].testtype if problem.tests else "none"] += 1
            yield problem

    if args.output.suffix == ".parquet":
        write_records(args.output, TestedProblem, counted(rows))
    elif args.output.suffix == ".jsonl":
        with atomic_path(args.output) as temporary, open(temporary, "w", encoding="utf-8") as handle:
            for problem in counted(rows):
                handle.write(json.dumps(row_of_problem(problem), ensure_ascii=False) + "\n")
    else:
        raise DataError(f"--output={args.output}: problems are written as .jsonl or .parquet")
    return f"{kinds.total()} problems (tests: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})"


def _verified(
    problems: Iterable[TestedProblem], references: dict[str, str], config: SandboxConfig, skips: list[Skip]
) -> Iterator[TestedProblem]:
    """Yields the problems whose reference passes all tests, with its CPU time, and those without a reference."""
    begun: collections.deque[TestedProblem] = collections.deque()

    def tasks() -> Iterator[JudgeTask]:
        for problem in problems:
            begun.append(problem)
            reference = references.get(problem.problem_id, "")
            yield JudgeTask.of(problem, problem.problem_id, reference, problem.tests if reference else ())

    with Judge.from_config(config, per_test=True) as judge:
        for result in judge.evaluate(tasks()):
            problem = begun.popleft()
            if problem.problem_id not in references:
                yield problem
            elif result.verdict is Verdict.AC:
                seconds = max(test.cpu_seconds or 0.0 for test in result.tests)
                yield dataclasses.replace(problem, reference_seconds=round(max(seconds, 0.001), 3))
            else:
                reason = f"its reference solution fails here: {result.verdict} {result.error}".rstrip()
                skips.append(Skip("reference", problem.problem_id, reason))


def _candidates(args: argparse.Namespace, skips: list[Skip]) -> str:
    file = read_candidates(args.candidates, args.strict)
    problems: dict[str, Problem] = {}
    if args.problems:
        rows = iterate_problems(args.problems, args.release, wants_tests=lambda _: False, skips=skips, packages=None)
        problems = {problem.problem_id: problem for problem in rows}
    file = file.completed(problems)
    skips += file.skips
    programs = [one.program for one in file.usable]
    if args.output.suffix == ".jsonl":
        write_samples(args.output, programs)
    elif args.output.suffix == ".json":
        codes: dict[str, list[str]] = {}
        for one in programs:
            codes.setdefault(one.problem_id, []).append(one.code)
        write_json(args.output, [{"question_id": name, "code_list": codes[name]} for name in sorted(codes)])
    elif args.output.suffix == ".parquet":
        write_records(args.output, Program, programs)
    else:
        raise DataError(f"--output={args.output}: candidates are written as .jsonl, .json or .parquet")
    return f"{len(programs)} candidates"
