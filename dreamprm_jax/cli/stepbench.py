"""StepBench: makes a benchmark of programs with one faulty function each, and evaluates scorers on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.metrics.statistics import Interval
from dreamprm_jax.sandbox.records import TIERS
from dreamprm_jax.schema import DataError, content_hash
from dreamprm_jax.stepbench.metrics import Result, baselines, evaluate
from dreamprm_jax.stepbench.records import Bench, BenchPaths, read_bench
from dreamprm_jax.stepbench.scores import REDUCTIONS, Said, read_scores
from dreamprm_jax.storage import atomic_path, write_json
from dreamprm_jax.tables import text_table

SIZE = 2000
PASSED_ON = {
    "form": "input format of a public model",
    "separator": "text after each step",
    "labels": "RIGHT,WRONG",
    "max-length": "maximum tokens of an input",
    "dtype": "computation dtype",
}
"""Options of ``score --prm`` that are passed to ``dreamprm score``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the three subcommands and their options."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="make|export|score")
    formatter = parser.formatter_class

    make = commands.add_parser(
        "make", help="make a benchmark", description=textwrap.fill(_MAKE, 112), formatter_class=formatter
    )
    make.add_argument("--output", required=True, type=Path, metavar="DIR", help="the benchmark's folder")
    make.add_argument("--seed", type=int, default=0, help="seed of inputs and faults")
    make.add_argument("--size", type=int, default=SIZE, help="number of programs, half of them erroneous")
    make.add_argument("--workers", type=int, default=0, help="concurrent programs (default: one per core)")
    make.add_argument("--tier", choices=TIERS, default=SandboxConfig().tier, help="required isolation tier")

    export = commands.add_parser(
        "export", help="write the programs without their ground truth", description=textwrap.fill(_EXPORT, 112)
    )
    export.add_argument("--bench", required=True, type=Path, metavar="DIR", help="the benchmark's folder")
    export.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .jsonl file to write")

    score = commands.add_parser(
        "score", help="compute metrics from scores", description=textwrap.fill(_SCORE, 112), formatter_class=formatter
    )
    score.add_argument("--bench", required=True, type=Path, metavar="DIR", help="the benchmark's folder")
    score.add_argument(
        "--scores", type=Path, nargs="+", default=[], metavar="FILE", help="rows of a scorer, .jsonl or .parquet"
    )
    score.add_argument(
        "--prm", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="reward model; `dreamprm score` is run on the benchmark first",
    )  # fmt: skip
    for option, what in PASSED_ON.items():
        score.add_argument(f"--{option}", metavar="VALUE", help=f"{what}, for --prm (see `dreamprm score`)")
    score.add_argument(
        "--logprobs", choices=REDUCTIONS, default="mean",
        help="how token log-probabilities are reduced to a step score",
    )  # fmt: skip
    score.add_argument(
        "--threshold", type=float, help="steps that score below are predicted wrong (default: tuned on dev)"
    )
    score.add_argument("--samples", type=int, default=10_000, help="bootstrap resamples of problems")
    score.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    score.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the metrics")


_MAKE = (
    "Makes a benchmark from the CodeI/O references of the package reasoning-gym by injecting one fault into one "
    "function of each. All programs run in the sandbox. The same seed and size give the same bytes. Resumes after a "
    "kill."
)
_EXPORT = (
    "Writes one JSON line per program: problem_id, program_hash, statement (title, platform), code, step_ends. It is a "
    "candidates file for `dreamprm score` and `dreamprm judge`, and the input for a scorer of your own. It does not "
    "reveal which programs are wrong."
)
_SCORE = (
    "Prints accuracy on erroneous programs (the first wrong step is predicted exactly), on clean ones (no step is "
    "predicted wrong) and F1, their harmonic mean, with 95% intervals over problems, next to baselines that do not "
    "read the programs. Rows of a scores file have program_hash and one of: step_scores (a number per step), "
    "first_wrong (an index or -1), or token_logprobs with text_offset (and code_start)."
)


def main(args: argparse.Namespace) -> int:
    """Runs one of the subcommands. Returns the exit status."""
    return {"make": _make, "export": _export, "score": _score}[args.action](args)


def _make(args: argparse.Namespace) -> int:
    from dreamprm_jax.stepbench.make import make_bench

    sandbox = dataclasses.replace(SandboxConfig(), workers=args.workers, tier=args.tier)
    card: dict[str, Any] = make_bench(args.output, args.seed, args.size, sandbox)
    counts, mutants = card["programs"], card["mutants"]
    print(
        f"{counts['all']} programs of {counts['problems']} problems: {counts['erroneous']} erroneous, "
        f"{counts['clean']} clean\n"
        f"{mutants['run']} mutants run: {mutants['shown by a test']} shown by a test, {mutants['survived']} survived, "
        f"{mutants['no verdict']} without a verdict"
    )
    for reason, count in card["left_out"].items():
        print(f"{count:>6} tasks left out: {reason}")
    print(f"wrote {args.output.resolve()}; its data card is {BenchPaths(args.output).readme}")
    return 0


def _export(args: argparse.Namespace) -> int:
    bench = read_bench(args.bench)
    if args.output.suffix != ".jsonl":
        raise DataError(f"--output {args.output}: must end in .jsonl")
    with atomic_path(args.output) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for program in bench.programs:
            problem = bench.problems[program.problem_id]
            row = {
                "problem_id": program.problem_id,
                "program_hash": program.program_hash,
                "statement": problem.statement,
                "title": problem.title,
                "platform": problem.platform,
                "code": program.code,
                "step_ends": bench.truth[program.program_hash].step_ends,
            }
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    problems = BenchPaths(args.bench).problems
    print(f"wrote {len(bench.programs)} programs to {args.output}; their statements and tests are in {problems}")
    return 0


def _score(args: argparse.Namespace) -> int:
    if args.samples < 1:
        raise DataError(f"--samples {args.samples}: must be at least 1")
    bench = read_bench(args.bench)
    said: dict[str, Said] = {}
    outputs = _outputs(args.prm, BenchPaths(args.bench).scores, _passed_on(args))
    for path in [*args.scores, *(_scored_by(prm, args, output) for prm, output in outputs.items())]:
        name = path.stem if path.stem not in said else str(path)
        said[name] = read_scores(path, bench.truth, args.logprobs)
    results = [evaluate(bench, name, one, args.samples, args.seed, args.threshold) for name, one in said.items()]
    print("\n".join(_report(bench, results, baselines(bench, args.samples, args.seed))))
    for name, one in said.items():
        if one.unknown:
            print(f"{name}: {one.unknown} rows are for programs outside the benchmark")
    if args.output is not None:
        write_json(args.output, {result.name: dataclasses.asdict(result) for result in results})
        print(f"metrics written to {args.output}")
    return 0


def _passed_on(args: argparse.Namespace) -> dict[str, str]:
    return {name: value for name in PASSED_ON if (value := getattr(args, name.replace("-", "_"))) is not None}


def _outputs(prms: Sequence[Path], folder: Path, options: Mapping[str, str]) -> dict[Path, Path]:
    """The scores file of each reward model. Its name has the last two parts of the model's path and the options.

    If two names are equal, a hash of the path is added to each.
    """
    places = {prm: prm.resolve() for prm in prms}
    asked = re.sub(r"[^\w.,+-]", "_", "".join(f"-{value}" for value in options.values()))
    names = {prm: f"{place.parent.name}-{place.name}{asked}" for prm, place in places.items()}
    often = Counter(names.values())
    return {
        prm: folder / (name + (f"-{content_hash(str(places[prm]), digits=8)}" if often[name] > 1 else "") + ".parquet")
        for prm, name in names.items()
    }


def _scored_by(prm: Path, args: argparse.Namespace, output: Path) -> Path:
    """Scores the benchmark's programs with a reward model, in a subprocess, so that this process does not load jax.

    Raises:
      DataError: if ``dreamprm score`` fails, which has then printed the reason.
    """
    paths = BenchPaths(args.bench)
    options: dict[str, Any] = {"prm": prm, "candidates": paths.programs, "problems": paths.problems, "output": output}
    options |= _passed_on(args)
    command = [sys.executable, "-m", "dreamprm_jax.cli", "score"]
    command += [f"--{key}={value}" for key, value in options.items()]
    output.parent.mkdir(exist_ok=True)
    if subprocess.run(command, check=False).returncode:
        raise DataError(f"--prm {prm}: `dreamprm score` failed; its message is above")
    return output


def _report(bench: Bench, results: list[Result], trivial: list[Result]) -> Iterator[str]:
    test = [row for row in bench.truth.values() if row.split == "test"]
    erroneous = sum(row.first_wrong >= 0 for row in test)
    yield (
        f"StepBench, test split: {erroneous} erroneous programs, {len(test) - erroneous} clean, "
        f"{len({row.problem_id for row in test})} problems; % with 95% intervals over problems\n"
    )
    rows = [
        [
            result.name,
            *map(_percent, (result.f1, result.accuracy_erroneous, result.accuracy_correct)),
            "" if result.threshold is None else f"{result.threshold:.4g}",
            str(result.missing or ""),
        ]
        for result in [*results, *trivial]
    ]
    yield text_table(["", "F1", "erroneous", "clean", "threshold", "missing"], rows)
    for title, groups in (("fault", "by_operator"), ("place", "by_place"), ("failed by", "by_verdict")):
        if results:
            rows = [
                [group, str(programs), *(f"{100 * getattr(one, groups)[group][1]:.1f}" for one in results)]
                for group, (programs, _) in getattr(results[0], groups).items()
            ]
            yield "\n" + text_table([title, "programs", *(one.name[:14] for one in results)], rows)
    yield ""


def _percent(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
