"""Prints the tables of a run's evaluate stage for candidates, verdicts and scores from files: best of N with intervals
and paired tests, public tests, reward hacking, aggregators. Needs no run.

Verdicts come from the candidates file (`passed`, or `graded_list` of an eval_all file) or from --verdicts, written by
`dreamprm judge`. Scores come from one or more files written by `dreamprm score`, or from --prm, which scores the
candidates first. Statements, difficulties and public tests come from --problems.

  dreamprm judge --problems=FILE --candidates=FILE --output=verdicts.jsonl
  dreamprm score --problems=FILE --candidates=FILE --prm=RUN/ARM --output=scores.parquet
  dreamprm evaluate --problems=FILE --candidates=FILE --verdicts=verdicts.jsonl --scores=scores.parquet --output=results

`dreamprm evaluate --config=FILE` runs the evaluate stage of a run instead. With --config, --problems and --candidates,
it judges a file of candidates and prints pass@1.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from dreamprm_jax.cli.select_best import add_candidate_arguments, scored_by_prm
from dreamprm_jax.problems.candidates import read_candidates
from dreamprm_jax.schema import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_candidate_arguments(parser)
    parser.add_argument(
        "--scores", type=Path, action="append", default=[], metavar="FILE",
        help="file written by `dreamprm score`; repeat the option to compare several models",
    )  # fmt: skip
    parser.add_argument("--verdicts", type=Path, metavar="FILE", help="file written by `dreamprm judge`")
    parser.add_argument("--samples", type=int, default=10000, help="bootstrap samples")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the tables; new or empty")


def main(args: argparse.Namespace) -> int:
    """Evaluates the candidates. Returns the exit status."""
    from dreamprm_jax.evaluation.output import skip_counts, write_results
    from dreamprm_jax.evaluation.printing import results_text
    from dreamprm_jax.evaluation.user_candidates import (
        evaluate_user_candidates,
        join,
        read_scores,
        read_user_problems,
        read_verdicts,
    )
    from dreamprm_jax.tables import finite

    if not args.scores and args.prm is None:
        raise DataError("give --scores=FILE or --prm=MODEL, or --config=FILE to run the stage of a run")
    if args.samples < 1:
        raise DataError(f"--samples={args.samples}: must be at least 1")
    made = args.output / "scores.parquet"  # for --prm; a killed command leaves parts, from which the next resumes
    others = {path.name for path in args.output.glob("*")} - {path.name for path in args.output.glob("scores.*")}
    if others or args.output.is_file():
        raise DataError(f"--output={args.output}: exists and is not an empty folder; name a new one")
    file = read_candidates(args.candidates, args.strict)
    problems = read_user_problems(args.problems, args.release) if args.problems else {}
    file = file.completed(problems)
    verdicts = read_verdicts(args.verdicts) if args.verdicts else {}
    paths = [*args.scores, *([scored_by_prm(args, made)] if args.prm else [])]
    scores = [read_scores(path) for path in paths]
    for index, path in enumerate(paths):
        if scores[index].model in {one.model for one in scores[:index]}:
            scores[index] = dataclasses.replace(scores[index], model=path.stem)
    candidates, skips = join(file, problems, verdicts, scores)
    if args.strict and skips:
        raise DataError(f"{skips[0].row}: {skips[0].reason}; without --strict, such rows are only counted")
    results = evaluate_user_candidates(
        args.candidates.name, candidates, [one.model for one in scores], args.aggregator, args.samples
    )
    results["skipped"] = skip_counts(skips)
    results = write_results(args.output, finite(results), candidates, skips)
    print(f"{results_text(results)}\nwrote {args.output}")
    return 0
