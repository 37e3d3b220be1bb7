"""Candidates: an eval_all file, JSON lines {problem_id, code} or Parquet. Scores: a file written by `dreamprm score`;
or --prm, which scores the candidates first (into OUTPUT.scores.parquet; after a kill, the same command resumes).

  dreamprm select --candidates=FILE --scores=FILE --output=best        # a folder, one program per problem
  dreamprm select --candidates=FILE --scores=FILE --output=best.json   # input of LiveCodeBench's custom evaluator
  dreamprm select --candidates=FILE --problems=FILE --prm=RUN/ARM --public-tests --output=best.csv

A candidate without a score ranks last. With --public-tests, the candidates are run in the sandbox, and those that pass
the public tests rank above those that do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from dreamprm_jax.cli.options import add_judge_arguments, sandbox_config
from dreamprm_jax.cli.score import add_prm_arguments, run_job
from dreamprm_jax.config import EvaluateConfig
from dreamprm_jax.problems.candidates import read_candidates
from dreamprm_jax.schema import DataError, Problem, Verdict
from dreamprm_jax.selection.aggregators import AGGREGATORS

SHOWN = 10


def add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that ``select`` and ``evaluate`` share: candidates, model, aggregator."""
    parser.add_argument("--candidates", required=True, type=Path, metavar="FILE", help=".json, .jsonl or .parquet")
    parser.add_argument("--problems", metavar="FILE", help="LiveCodeBench rows, or {problem_id, statement}")
    parser.add_argument("--release", default="release_v6", help="release windows to read if --problems is a folder")
    parser.add_argument(
        "--aggregator", choices=tuple(AGGREGATORS), default=EvaluateConfig.aggregator,
        help="how step scores are reduced to one number",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="stop at the first candidate that cannot be used")
    add_prm_arguments(parser, required=False)


def scored_by_prm(args: argparse.Namespace, output: Path) -> Path:
    """Scores the candidates with ``--prm``. Returns the file of scores."""
    options = vars(args) | {
        "candidates": str(args.candidates), "output": output, "chunk": 4096, "max_characters": 1_000_000,
        "shard": "0/1",
    }  # fmt: skip
    run_job(argparse.Namespace(**options))
    return output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_candidate_arguments(parser)
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="file written by `dreamprm score`, instead of --prm"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="PATH",
        help="a folder of programs; .json: LiveCodeBench's custom evaluator input; .parquet, .jsonl or .csv: a table",
    )  # fmt: skip
    group = parser.add_argument_group("public tests")
    group.add_argument(
        "--public-tests", action="store_true", help="run the candidates on the public tests of --problems"
    )
    add_judge_arguments(group)


def main(args: argparse.Namespace) -> int:
    """Selects and writes programs. Returns 0, or 1 if a problem has no candidate with a score."""
    from dreamprm_jax.evaluation.best_programs import check_output, pick, write_chosen
    from dreamprm_jax.evaluation.user_candidates import by_problem, read_scores, read_user_problems

    if (args.scores is None) == (args.prm is None):
        raise DataError("give either --scores=FILE or --prm=MODEL")
    if args.public_tests and not args.problems:
        raise DataError("--public-tests: needs the tests of --problems=FILE")
    check_output(args.output)
    file = read_candidates(args.candidates, args.strict)
    wanted = args.public_tests or (args.problems and file.needs_problems)
    problems = read_user_problems(args.problems, args.release) if wanted else {}
    file = file.completed(problems)
    scores = read_scores(
        args.scores or scored_by_prm(args, args.output.with_name(f"{args.output.name}.scores.parquet"))
    )
    groups = by_problem(file.usable)
    keys = {(name, one.program.program_hash) for name, group in groups.items() for one in group}
    if not keys & scores.logits.keys():
        raise DataError(f"no score of {scores.model} belongs to a candidate of {args.candidates}; wrong file?")
    if args.strict and (missing := sorted(keys - scores.logits.keys())):
        raise DataError(f"{missing[0][0]}, program {missing[0][1]}: no score; without --strict, it ranks last")
    public = _public(args, groups, problems) if args.public_tests else None
    chosen = [pick(name, group, scores, args.aggregator, public) for name, group in groups.items()]
    write_chosen(args.output, chosen)
    without = [one.problem_id for one in chosen if one.score is None]
    print(
        f"{len(chosen)} problems, {len(file.usable)} candidates, scores of {scores.model}, aggregator {args.aggregator}"
    )
    for one in chosen[:SHOWN]:
        score = "no score" if one.score is None else f"{one.score:.3f}"
        passes = "" if one.passes_public is None else ", public tests " + ("passed" if one.passes_public else "failed")
        ties = f", {one.tied} tied" if one.tied > 1 else ""
        print(f"  {one.problem_id}: candidate {one.sample_index} of {one.candidates}, {score}{passes}{ties}")
    if len(chosen) > SHOWN:
        print(f"  and {len(chosen) - SHOWN} more")
    for skip in file.skips[:SHOWN]:
        print(f"  left out: {skip.row}: {skip.reason}")
    if public is not None:
        print(f"  {sum(bool(one.passes_public) for one in chosen)} choices pass the public tests")
    print(f"wrote {args.output}")
    return 1 if without else 0


def _public(args: argparse.Namespace, groups: Mapping, problems: Mapping[str, Problem]) -> dict[tuple[str, str], bool]:
    """Runs the candidates of problems with public tests on these tests. Returns whether each candidate passes."""
    from dreamprm_jax.runs.progress import Progress
    from dreamprm_jax.sandbox import Judge, JudgeTask

    programs = {
        (name, one.program.program_hash): one.program.code
        for name, group in groups.items()
        if name in problems and problems[name].public_tests
        for one in group
    }
    if not programs:
        raise DataError(f"{args.problems}: no problem of the candidates has public tests")
    tasks = (
        JudgeTask.of(problems[name], program_hash, code, problems[name].public_tests)
        for (name, program_hash), code in programs.items()
    )
    found = {}
    with (
        Judge.from_config(sandbox_config(args)) as judge,
        Progress("public tests", len(programs), "program") as bar,
    ):
        for key, result in zip(programs, judge.evaluate(tasks), strict=True):
            found[key] = result.verdict is Verdict.AC
            bar.add()
    return found
