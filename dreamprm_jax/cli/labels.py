"""Each row holds the prompt, the steps and one label per step of one training program.

`dreamprm labels export --run=RUN --format=trl --output=labels.parquet` writes a file that both TRL's PRMTrainer (as a
`datasets.Dataset`) and `dreamprm train --steps=labels.parquet` can train on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamprm_jax.labeling.step_export import FORMATS, THRESHOLD, export_labels, run_labels
from dreamprm_jax.schema import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="export")
    export = commands.add_parser(
        "export",
        help="write a run's step labels for other tools",
        allow_abbrev=False,
        formatter_class=parser.formatter_class,
    )
    export.add_argument("--run", required=True, type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--format", choices=FORMATS, default="trl", help="row format")
    export.add_argument(
        "--output", required=True, type=Path, metavar="PATH",
        help="a .jsonl or .parquet file; a path without extension is written as a datasets.Dataset folder",
    )  # fmt: skip
    export.add_argument("--labels", default="raw", metavar="ARM", help="raw, or an arm that corrected the labels")
    export.add_argument(
        "--threshold", type=float, default=THRESHOLD,
        help="labels of at least this value count as correct",
    )  # fmt: skip
    export.add_argument("--soft", action="store_true", help="write labels as numbers from 0 to 1 (trl only)")


def main(args: argparse.Namespace) -> int:
    """Writes the labels. Returns 0; 1 if there are none."""
    from dreamprm_jax.models.tokenizer import prompt_text

    if args.soft and args.format != "trl":
        raise DataError(f"--soft: the format {args.format} has no soft labels; use --format=trl")
    if not args.run.is_dir():
        raise DataError(f"--run={args.run}: no such folder")
    rows = run_labels(args.run, args.labels, lambda problem: prompt_text(problem).strip())
    counts = export_labels(rows, args.format, None if args.soft else args.threshold, args.output)
    print(f"wrote {args.output.resolve()}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0 if counts["solutions"] else 1
