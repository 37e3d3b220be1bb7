"""The score stage: every step of every test candidate, all candidates of a problem behind one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from dreamprm_jax.config import Config
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.schema import Problem, Program, Score
from dreamprm_jax.scoring.scorer import ProgramReading, Reading, Scorer, score_row
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training.examples import tokenise
from dreamprm_jax.training.mesh import own_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params
from dreamprm_jax.training.tokenizer import load_tokenizer
from dreamprm_jax.workdir import Paths


def score(config: Config, paths: Paths) -> dict[str, int]:
    """Scores the test window's candidates with every trained arm; an arm whose file is there is not scored again.

    Returns:
      Counts: programs, steps, tokens, what was computed of them, padding, compilations, programs left out by reason.
    """
    counts: Counter[str] = Counter()
    model, mesh = model_config(config.model), own_mesh(config.train.mesh)
    tokenizer = load_tokenizer(paths.tokenizer())
    problems = {p.problem_id: p for p in read_records(paths.problems("test"), Problem)}
    by_problem: dict[str, list[Program]] = {}
    for program in {p.program_hash: p for p in read_records(paths.programs("test"), Program)}.values():
        by_problem.setdefault(program.problem_id, []).append(program)
    programs = [
        ProgramReading(program, Reading(tokens, ends))
        for problem_id, of_problem in by_problem.items()
        for program, tokens, ends in tokenise(tokenizer, config.model, problems[problem_id], of_problem, counts)
    ]
    counts["programs"] = len(programs)
    counts["steps"] = sum(len(p.reading.ends) for p in programs)
    frozen = frozen_params(config, model, mesh)
    computed: dict[str, int] = {}
    for arm in config.train.arms:
        if not paths.scores(arm).exists():
            step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
            scorer = Scorer(model, mesh, params, config.score.row_tokens, config.score.batch_tokens)
            rows = score_programs(scorer, arm, f"{arm}/{step}", programs)
            write_records(paths.scores(arm), Score, rows)
            computed = scorer.summary()  # the same for every arm
    return dict(counts) | computed


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
