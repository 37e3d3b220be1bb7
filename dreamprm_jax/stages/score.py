"""The score stage: every step of every test candidate, all candidates of a problem behind one prompt.

A window is cut into chunks of whole problems. Of several processes each scores every n-th chunk on its own devices, and
writes it aside; process 0 joins them. The rows do not depend on who did what, and a killed run goes on with the chunks
that are missing.
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

SHARED_DISK_SECONDS = 60.0


def score(config: Config, paths: Paths) -> dict[str, int]:
    """Scores the test window's candidates, and those of ``score.windows``, with every trained arm.

    A file that is there is not made again. To be called by all processes of a run.

    Returns:
      Counts: programs, steps, programs left out by reason; tokens, what was computed of them, padding and compilations
      by this process for the last arm.
    """
    counts: Counter[str] = Counter()
    model, mesh = model_config(config.model), own_mesh(config.train.mesh)
    tokenizer = load_tokenizer(paths.tokenizer())
    if unknown := set(config.score.windows) - {"train", "meta", "test"}:
        raise DataError(f"config.score.windows: unknown {', '.join(sorted(unknown))}; choose among train, meta, test")
    if config.score.chunk < 1:
        raise DataError(f"config.score.chunk={config.score.chunk}: must be at least 1")
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
    """Whole problems, until a chunk has ``size`` programs or more."""
    chunk: list[ProgramReading] = []
    for _, of_problem in groupby(programs, key=lambda one: one.program.problem_id):
        chunk += of_problem
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _join(paths: Paths, arm: str, windows: Sequence[str], parts: Sequence[Path]) -> None:
    """Writes an arm's files from their parts, which are in the order of windows and chunks."""
    for window in windows:
        rows: list[Score] = []
        for part in parts:
            if part.name.startswith(f"{arm}_{window}_"):
                if not _appears(part):
                    raise DataError(
                        f"{part}: not there, though another process has written it; all processes of a run need the "
                        "same --workdir on a disk that they share"
                    )
                rows += read_records(part, Score)
        write_records(paths.scores(arm, window), Score, rows)


def _appears(path: Path) -> bool:
    """Whether a file that another machine has written is there; network file systems take a while to say so."""
    deadline = time.monotonic() + SHARED_DISK_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _readings(
    config: Config, paths: Paths, window: str, tokenizer: Tokenizer, counts: Counter[str]
) -> list[ProgramReading]:
    """Each distinct program of a window after its prompt."""
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
    """Score rows in the programs' order.

    Args:
      scorer: the model.
      name: of the model, in the rows.
      checkpoint: where the parameters are from, in the rows.
      programs: programs after their prompts.
    """
    with Progress(f"score {name}", len(programs), "program") as progress:
        logits = scorer.logits([p.reading for p in programs], lambda count: progress.add(units=count))
    return [score_row(p.program, values, name, checkpoint) for p, values in zip(programs, logits, strict=True)]
