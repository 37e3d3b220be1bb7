"""The score stage: every step of every test candidate, all candidates of a problem behind one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer
from tqdm import tqdm

from dreamprm_jax.config import Config
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.schema import DataError, Problem, Program, Score
from dreamprm_jax.scoring.scorer import ProgramReading, Reading, Scorer, score_row
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training.examples import tokenise
from dreamprm_jax.training.mesh import own_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params
from dreamprm_jax.training.tokenizer import load_tokenizer
from dreamprm_jax.workdir import Paths


def score(config: Config, paths: Paths) -> dict[str, int]:
    """Scores the test window's candidates, and those of ``score.windows``, with every trained arm.

    A file that is there is not made again.

    Returns:
      Counts: programs, steps, tokens, what was computed of them, padding, compilations, programs left out by reason.
    """
    counts: Counter[str] = Counter()
    model, mesh = model_config(config.model), own_mesh(config.train.mesh)
    tokenizer = load_tokenizer(paths.tokenizer())
    if unknown := set(config.score.windows) - {"train", "meta", "test"}:
        raise DataError(f"config.score.windows: unknown {', '.join(sorted(unknown))}; choose among train, meta, test")
    windows = list(dict.fromkeys(["test", *config.score.windows]))
    programs = {window: _readings(config, paths, window, tokenizer, counts) for window in windows}
    counts["programs"] = sum(len(rows) for rows in programs.values())
    counts["steps"] = sum(len(row.reading.ends) for rows in programs.values() for row in rows)
    frozen = frozen_params(config, model, mesh)
    computed: dict[str, int] = {}
    for arm in config.train.arms:
        todo = [window for window in windows if not paths.scores(arm, window).exists()]
        if todo:
            step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
            scorer = Scorer(model, mesh, params, config.score.row_tokens, config.score.batch_tokens)
            for window in todo:
                rows = score_programs(scorer, arm, f"{arm}/{step}", programs[window])
                write_records(paths.scores(arm, window), Score, rows)
            computed = scorer.summary()  # the same for every arm
    return dict(counts) | computed


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
        for program, tokens, ends in tokenise(tokenizer, config.model, problems[key], of_problem, counts, granularity)
    ]


def score_programs(scorer: Scorer, name: str, checkpoint: str, programs: Sequence[ProgramReading]) -> list[Score]:
    """Score rows in the programs' order.

    Args:
      scorer: the model.
      name: of the model, in the rows.
      checkpoint: where the parameters are from, in the rows.
      programs: programs after their prompts.
    """
    with tqdm(total=len(programs), desc=f"score {name}", unit="program") as bar:
        logits = scorer.logits([p.reading for p in programs], bar.update)
    return [score_row(p.program, values, name, checkpoint) for p, values in zip(programs, logits, strict=True)]
