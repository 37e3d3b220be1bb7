"""Scores every step of any number of candidate programs with a reward model.

Candidates: any file or folder of docs/your_own_data.md (JSON lines or Parquet of {problem_id, code}, a LiveCodeBench
eval_all file, evalplus samples, ...), or - for JSON lines on standard input. The statement comes from --problems (rows
of docs/problems.md, or {problem_id, statement, title, platform}) or from the row itself. The output has one row per
candidate: problem_id, program_hash, step_logits, step_scores, model, checkpoint, row (of the input, from 1),
sample_index. Two more files are written next to it: OUTPUT's .counts.json, and .skipped.jsonl, which names every
candidate without a score and the reason. After a kill, the same command resumes and produces the same bytes.

`dreamprm score --config=FILE --workdir=DIR` runs the score stage of a run instead; with --config=FILE, --help lists the
settings of that stage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.schema import DataError, Granularity, Skip
from dreamprm_jax.storage import check_ending

if TYPE_CHECKING:
    from dreamprm_jax.scoring.job import ScoreJob
    from dreamprm_jax.scoring.prm import PrmOptions

FORMS = ("native", "trl", "skywork", "qwen-prm", "rlhflow", "math-shepherd", "outcome")  # defined in scoring.forms
_RANKS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("RANK", "WORLD_SIZE"),
    ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
)


def add_prm_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the options for the reward model."""
    parser = parser.add_argument_group("reward model")  # type: ignore[assignment]
    parser.add_argument(
        "--prm", required=required, type=Path, metavar="FOLDER",
        help="RUN_FOLDER/ARM, or a Hugging Face folder or hub id of a reward model (from `dreamprm export`, or public)",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=FORMS,
        help="input format of a public model (default: inferred from its head; a language model has no head and needs "
        "rlhflow or math-shepherd; see docs/scoring.md)",
    )  # fmt: skip
    parser.add_argument("--separator", help="text after each step, where the score is read (default: the form's)")
    parser.add_argument(
        "--labels", metavar="RIGHT,WRONG",
        help="the two labels of a classifier, by name or number, or the two tokens of a language model (default: +,-)",
    )  # fmt: skip
    parser.add_argument("--max-length", type=int, help="maximum tokens of prompt and program (default: the model's)")
    parser.add_argument(
        "--overlong", choices=("truncate_statement", "drop", "raise"),
        help="longer inputs: truncate the beginning of the statement, skip the program, or stop (default: as in the "
        "run; truncate_statement for a Hugging Face folder)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="computation dtype (default: the model's)")
    parser.add_argument(
        "--granularity", choices=get_args(Granularity),
        help="what a step is (default: as in training; function for a Hugging Face folder)",
    )  # fmt: skip
    parser.add_argument("--row-tokens", type=int, default=8192, help="tokens per packed row")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="tokens per batch, over all devices")
    parser.add_argument("--fsdp", type=int, default=1, help="devices that shard the parameters of one replica")
    parser.add_argument("--tensor", type=int, default=1, help="devices that shard each layer of one replica")


def prm_options(args: argparse.Namespace) -> PrmOptions:
    """The options that ``add_prm_arguments`` adds. Imports jax."""
    from dreamprm_jax.scoring.forms import FormOptions
    from dreamprm_jax.scoring.prm import PrmOptions

    labels = tuple(args.labels.split(",")) if args.labels else ()
    if labels and len(labels) != 2:
        raise DataError(f"--labels={args.labels}: must be two labels, RIGHT,WRONG")
    mesh, form = MeshConfig(-1, args.fsdp, args.tensor), FormOptions(args.form, args.separator, labels)
    return PrmOptions(args.max_length, args.overlong, args.dtype, granularity=args.granularity, mesh=mesh, form=form)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--candidates", required=True, metavar="FILE", help="a file, a folder of samples, or - for standard input"
    )
    parser.add_argument("--problems", metavar="FILE", help="problem statements; not needed if every row has its own")
    parser.add_argument(
        "--release", default="release_v6", help="release windows to read if --problems is a folder or hub id"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE",
        help="output file; its extension selects the format: .parquet, .jsonl or .csv",
    )  # fmt: skip
    add_prm_arguments(parser)
    parser.add_argument("--chunk", type=int, default=4096, help="candidates scored and saved together")
    parser.add_argument("--max-characters", type=int, default=1_000_000, help="skip longer programs")
    parser.add_argument("--strict", action="store_true", help="stop at the first candidate that cannot be scored")
    parser.add_argument(
        "--shard", default="0/1", metavar="I/N",
        help="score part I of N, counted from 0; 'auto' takes I and N from SLURM, Open MPI, RANK and WORLD_SIZE, or "
        "the TPU pod. All processes write to the same --output on a shared disk; the last one joins the parts",
    )  # fmt: skip


def parse_shard(text: str) -> tuple[int, int]:
    """Parses ``--shard`` into (index, count).

    Raises:
      DataError: if it is malformed, or ``auto`` finds none of the variables.
    """
    if text == "auto":
        for rank, size in _RANKS:
            if rank in os.environ and size in os.environ:
                number = os.environ[size]
                # a TPU pod lists its hosts instead of counting them
                text = f"{os.environ[rank]}/{number if number.isdigit() else number.count(',') + 1}"
                break
        else:
            names = ", ".join(f"{rank} and {size}" for rank, size in _RANKS)
            raise DataError(f"--shard=auto: none of {names} is set; give --shard=I/N")
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise DataError(f"--shard={text}: must be I/N with I from 0 to N - 1, or 'auto'")
    return int(match[1]), int(match[2])


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Checks that numeric options are at least 1.

    Raises:
      DataError: if one is not; names the option.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')}={value}: must be at least 1")


def main(args: argparse.Namespace) -> int:
    """Scores the candidates. Returns 0, or 1 if none could be scored."""
    job, counts = run_job(args)
    if counts is None:
        return 0
    scored, skipped = counts["scored"], counts["skipped"]
    print(f"{scored} of {scored + skipped} programs scored, {counts['steps']} steps, {counts['seconds']:.1f} s")
    for reason, number in counts["skipped by reason"].items():
        print(f"  {number:>8}  {reason}")
    for row in sample_rows(job.output, 3) if scored else ():
        print(f"  {row['problem_id']}, sample {row['sample_index']}: {shown_scores(row['step_scores'])}")
    print(f"scores: {job.output}\ncounts: {job.counts_path}\nskipped: {job.skipped_path}")
    if scored and args.candidates != "-":
        print(f"next: dreamprm select --candidates={args.candidates} --scores={job.output} --output=best.jsonl")
    if not scored:
        reasons = "; ".join(f"{number} times: {reason}" for reason, number in counts["skipped by reason"].items())
        print(f"dreamprm score: error: no candidate was scored ({reasons or 'the input is empty'})", file=sys.stderr)
    return 0 if scored else 1


def sample_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a file of scores."""
    if path.suffix == ".parquet":
        from dreamprm_jax.storage import open_parquet

        with open_parquet(path) as file:
            return next(file.iter_batches(count)).to_pylist()
    from dreamprm_jax.storage import read_table

    rows = read_table(path)[:count]
    texts = [row["step_scores"] for row in rows]
    return [
        row | {"step_scores": json.loads(t) if isinstance(t, str) else t} for row, t in zip(rows, texts, strict=True)
    ]


def shown_scores(scores: Sequence[float]) -> str:
    """The scores of a program's steps; if there are many, the middle ones are left out."""
    texts = [f"{score:.2f}" for score in scores]
    return " ".join(texts if len(texts) <= 12 else [*texts[:6], "...", *texts[-5:]])


def run_job(args: argparse.Namespace) -> tuple[ScoreJob, dict[str, Any] | None]:
    """Runs the scoring job. Returns the job, and its counts or None while other processes still have chunks to score.

    Raises:
      DataError: on unusable input.
    """
    # Bad options and inputs are reported before jax and the model are loaded, which takes seconds.
    index, count = parse_shard(args.shard)
    check_positive(args, "chunk", "max_length", "row_tokens", "batch_tokens", "max_characters", "fsdp", "tensor")
    check_ending(args.output)
    candidates = Path(args.candidates)
    if args.candidates != "-" and not candidates.exists():
        raise DataError(f"--candidates={candidates}: no such file or folder")

    from dreamprm_jax.scoring.inputs import read_problems
    from dreamprm_jax.scoring.job import JobOptions, ScoreJob, Shard, spool
    from dreamprm_jax.scoring.prm import load_prm
    from dreamprm_jax.scoring.scorer import Scorer

    skips: list[Skip] = []
    problems = read_problems(args.problems, args.release, None if args.strict else skips) if args.problems else {}
    for skip in skips[:10]:
        print(f"left out: {skip.source}, {skip.row}: {skip.reason}")
    if len(skips) > 10:
        print(f"left out: {len(skips) - 10} more rows of {args.problems}")
    if spooled := args.candidates == "-":
        candidates = args.output.with_name(f"{args.output.name}.stdin-{index}.jsonl")
        spool(sys.stdin.buffer, candidates)
    prm = load_prm(args.prm, prm_options(args))
    scorer = Scorer(prm.model, prm.mesh, prm.params, args.row_tokens, args.batch_tokens)
    options = JobOptions(
        candidates=candidates,
        source="stdin" if spooled else candidates.name,
        problems=problems,
        output=args.output,
        chunk=args.chunk,
        max_characters=args.max_characters,
        strict=args.strict,
        shard=Shard(index, count),
    )
    job = ScoreJob(options, prm, scorer)
    counts = job.run()
    if spooled:
        candidates.unlink(missing_ok=True)
    return job, counts
