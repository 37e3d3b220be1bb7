"""The score stage: scores every step of every test candidate; all candidates of a problem share one prompt.

A window is split into chunks of whole problems. With n processes, each one scores every n-th chunk on its own devices
and writes it to a separate file; process 0 joins the files. The rows do not depend on the assignment of chunks, and a
killed run continues with the missing chunks.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import jax
from tokenizers import Tokenizer

from dreamprm_jax.config import Config
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.tokenizer import load_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError, Problem, Program, Score
from dreamprm_jax.scoring.scorer import ProgramReading, Reading, Scorer, score_row
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training import distributed
from dreamprm_jax.training.examples import tokenize
from dreamprm_jax.training.mesh import own_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params

SHARED_DISK_SECONDS = 60.0  # time that a file written by another machine may take to appear


def score(config: Config, paths: Paths) -> dict[str, int]:
    """Scores the candidates of the test window and of ``score.windows`` with every trained arm.

    Existing files are kept. All processes of a run must call this function.

    Returns:
      Counts: programs, steps, skipped programs by reason; tokens, computed tokens, padding and compilations of this
      process for the last arm.

    Raises:
      DataError: if a chunk that another process scored is missing.
    """
    counts: Counter[str] = Counter()
    model, mesh = model_config(config.model), own_mesh(config.train.mesh)
    tokenizer = load_tokenizer(paths.tokenizer())
    windows = list(dict.fromkeys(["test", *config.score.windows]))
    programs = {window: _readings(config, paths, window, tokenizer, counts) for window in windows}
    counts["programs"] = sum(len(rows) for rows in programs.values())
    counts["steps"] = sum(len(row.reading.ends) for rows in programs.values() for row in rows)
    chunks = {window: list(_chunks(rows, config.score.chunk)) for window, rows in programs.items()}
    frozen = frozen_params(config, model, mesh, scoring=True)
    computed: dict[str, int] = {}
    for arm in config.train.arms:
        todo = [window for window in windows if not paths.scores(arm, window).exists()]
        if not todo:
            continue
        parts = [
            (paths.score_parts() / f"{arm}_{window}_{config.score.chunk}_{index:06d}.parquet", chunk)
            for window in todo
            for index, chunk in enumerate(chunks[window])
        ]
        own = [part for part in parts[jax.process_index() :: jax.process_count()] if not part[0].exists()]
        if own:
            step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen, scoring=True)
            scorer = Scorer(model, mesh, params, config.score.row_tokens, config.score.batch_tokens)
            for path, chunk in own:
                write_records(path, Score, score_programs(scorer, arm, f"{arm}/{step}", chunk))
            computed = scorer.summary()  # the same for every arm
        distributed.barrier(f"scores of {arm}")
        if distributed.is_main():
            _join(paths, arm, todo, [path for path, _ in parts])
    if distributed.is_main():
        shutil.rmtree(paths.score_parts(), ignore_errors=True)
    return dict(counts) | computed


def _chunks(programs: Sequence[ProgramReading], size: int) -> Iterator[list[ProgramReading]]:
    """Splits the programs between problems, into chunks of at least ``size`` programs (the last may be smaller)."""
    chunk: list[ProgramReading] = []
    for _, of_problem in groupby(programs, key=lambda reading: reading.program.problem_id):
        chunk += of_problem
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _join(paths: Paths, arm: str, windows: Sequence[str], parts: Sequence[Path]) -> None:
    """Writes an arm's score files from their parts, which are ordered by window and chunk."""
    for window in windows:
        rows: list[Score] = []
        for part in parts:
            if part.name.startswith(f"{arm}_{window}_"):
                if not _appears(part):
                    raise DataError(
                        f"{part}: not found, though another process has written it; all processes of a run need the "
                        "same --workdir on a shared disk"
                    )
                rows += read_records(part, Score)
        write_records(paths.scores(arm, window), Score, rows)


def _appears(path: Path) -> bool:
    """Whether a file that another machine wrote exists, possibly after the delay of a network file system."""
    deadline = time.monotonic() + SHARED_DISK_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _readings(
    config: Config, paths: Paths, window: str, tokenizer: Tokenizer, counts: Counter[str]
) -> list[ProgramReading]:
    """The tokenized prompt and program of each distinct program of a window."""
    problems = {p.problem_id: p for p in read_records(paths.problems(window), Problem)}
    by_problem: dict[str, list[Program]] = {}
    for program in {p.program_hash: p for p in read_records(paths.programs(window), Program)}.values():
        by_problem.setdefault(program.problem_id, []).append(program)
    granularity = config.label.granularity
    return [
        ProgramReading(program, Reading(tokens, ends))
        for key, of_problem in by_problem.items()
        for program, tokens, ends in tokenize(tokenizer, config.model, problems[key], of_problem, counts, granularity)
    ]


def score_programs(scorer: Scorer, name: str, checkpoint: str, programs: Sequence[ProgramReading]) -> list[Score]:
    """Score rows in the order of ``programs``; ``checkpoint`` identifies the model's parameters in the rows."""
    with Progress(f"score {name}", len(programs), "program") as progress:
        logits = scorer.logits([p.reading for p in programs], lambda count: progress.add(units=count))
    return [score_row(p.program, values, name, checkpoint) for p, values in zip(programs, logits, strict=True)]
