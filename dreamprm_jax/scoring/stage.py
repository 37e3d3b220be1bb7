"""The score stage: every step of every test candidate, all steps of a program in one pass."""

from __future__ import annotations

from collections import Counter

import jax
import numpy as np
from tqdm import tqdm

from dreamprm_jax.config import Config
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.reward import Params
from dreamprm_jax.schema import Problem, Program, Score
from dreamprm_jax.scoring.batches import Sequence, bucketed
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training.examples import tokenise
from dreamprm_jax.training.losses import batch_logits
from dreamprm_jax.training.mesh import activate, batch_sharding, check_divisible, make_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params
from dreamprm_jax.training.tokenizer import load_tokenizer
from dreamprm_jax.workdir import Paths


def score(config: Config, paths: Paths) -> dict[str, int]:
    """Scores the test window's candidates with every trained arm; an arm whose file is there is not scored again.

    Returns:
      Counts: programs, steps, tokens, padding, programs left out by reason.
    """
    counts: Counter[str] = Counter()
    model, mesh = model_config(config.model), make_mesh(config.train.mesh)
    check_divisible(mesh, config.score.batch_size, "config.score.batch_size")
    tokenizer = load_tokenizer(paths.tokenizer())
    problems = {p.problem_id: p for p in read_records(paths.problems("test"), Problem)}
    by_problem: dict[str, list[Program]] = {}
    for program in {p.program_hash: p for p in read_records(paths.programs("test"), Program)}.values():
        by_problem.setdefault(program.problem_id, []).append(program)
    granularity = config.label.granularity
    sequences = [
        Sequence(program, tokens, ends)
        for problem_id, programs in by_problem.items()
        for program, tokens, ends in tokenise(
            tokenizer, config.model, problems[problem_id], programs, counts, granularity
        )
    ]
    counts["programs"] = len(sequences)
    counts["steps"] = sum(len(s.step_index) for s in sequences)
    counts["tokens"] = sum(len(s.tokens) for s in sequences)
    counts["padding"] = sum(b.padding for b in bucketed(sequences, config.score.batch_size))
    frozen = frozen_params(config, model, mesh)
    for arm in config.train.arms:
        if not paths.scores(arm).exists():
            step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
            rows = score_sequences(model, mesh, params, arm, f"{arm}/{step}", sequences, config.score.batch_size)
            write_records(paths.scores(arm), Score, rows)
    return dict(counts)


def score_sequences(
    model: DecoderConfig,
    mesh: jax.sharding.Mesh,
    params: Params,
    name: str,
    checkpoint: str,
    sequences: list[Sequence],
    batch_size: int,
) -> list[Score]:
    """Score rows in the sequences' order, whatever the order of computation.

    Args:
      model: the model.
      mesh: where ``params`` lie.
      params: all of them, adapters beside their kernels.
      name: of the model, in the rows.
      checkpoint: where the parameters are from, in the rows.
      sequences: programs after their prompts.
      batch_size: programs in one pass.
    """
    rows: dict[int, Score] = {}
    with activate(model, mesh), tqdm(total=len(sequences), desc=f"score {name}", unit="program") as bar:
        logits_of = jax.jit(lambda params, batch: batch_logits(model, params, batch))
        for bucket in bucketed(sequences, batch_size):
            logits = np.asarray(logits_of(params, jax.device_put(bucket.batch, batch_sharding(mesh))), np.float64)
            for row, index in enumerate(bucket.indices):
                sequence = sequences[index]
                steps = logits[row, : len(sequence.step_index)]
                rows[index] = Score(
                    problem_id=sequence.program.problem_id,
                    program_hash=sequence.program.program_hash,
                    step_logits=tuple(steps.tolist()),
                    step_scores=tuple((1.0 / (1.0 + np.exp(-steps))).tolist()),
                    model=name,
                    checkpoint=checkpoint,
                )
            bar.update(len(bucket.indices))
    return [rows[index] for index in range(len(sequences))]
