"""Training examples from solutions with given step labels (``dreamprm train --steps``).

The token sequence of a solution has the form that the trained model is scored with: the prompt, then each step of the
file followed by the separator, at whose last token the score is read. Every labeled step has a row in the label table.
This includes the last step of a solution, unless the file has rollout counts: then the label of the last step is the
outcome, as in a run's own labels. The loss has the outcome term if the file has outcomes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamprm_jax.config import Config, StepDataConfig
from dreamprm_jax.labeling.correction.methods import (
    WITHOUT_COUNTS,
    GivenLabels,
    GivenStep,
    LabelSource,
    StepKey,
    counted_step,
    step_key,
)
from dreamprm_jax.labeling.step_files import LabeledSteps, SteppedProgram, read_steps
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError, Outcome, Problem, Skip, StepLabel, Verdict, canonical_json
from dreamprm_jax.scoring.forms import FormReader, own_reader
from dreamprm_jax.scoring.scorer import Reading
from dreamprm_jax.storage import write_text
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arms import ArmPlan
from dreamprm_jax.training.evaluate_during import evaluation_set
from dreamprm_jax.training.examples import DROPPED_TOKENS, NO_LABEL, Example
from dreamprm_jax.training.feed import Batch, PackedRows, row_length
from dreamprm_jax.training.losses import Loss, LossKind, batch_logits, elementwise_loss, outcome_loss, step_loss
from dreamprm_jax.training.run_data import RunData, make_tokenizer, row_limits


@dataclass(frozen=True)
class StepData:
    """Training and evaluation data of a run on given labels."""

    run: RunData
    evaluation: list[tuple[LabeledSteps, Reading]]


def load_step_data(config: Config, paths: Paths, arms: list[ArmPlan], counts: Counter[str]) -> StepData:
    """Reads the files, trains or copies the tokenizer, and packs the rows.

    Args:
      config: all settings; ``train.step_data`` names the files.
      paths: paths of the run.
      arms: the step-labeled arms.
      counts: receives the numbers of solutions used and left out.

    Raises:
      DataError: if no solution is left for training, or for the outer loss.
    """
    data, settings = config.train.step_data, config.train
    skips: list[Skip] = []
    evaluation = _read(data.evaluation, data, "evaluation", counts, skips, data.evaluation_split)
    trusted = _without(_read(data.meta, data, "meta", counts, skips), evaluation, "meta", counts)
    train = _without(_read(data.path, data, "train", counts, skips), [*evaluation, *trusted], "train", counts)
    learned = [plan.arm for plan in arms if plan.learned]
    meta = trusted
    if learned and not data.meta:
        meta = [one for one in train if one.is_meta(data.meta_share)]
        chosen = {one.problem_id for one in meta}
        train = [one for one in train if one.problem_id not in chosen]
    if distributed.is_main():
        lines = [canonical_json(dataclasses.asdict(skip)) + "\n" for skip in skips]
        write_text(paths.skipped_steps(), "".join(lines))

    model = pretrained.model_config(config.model)
    texts = (text for one in (*train, *meta) for text in (one.prompt, "".join(one.steps)))
    distributed.main_first("tokenizer", lambda: make_tokenizer(config, model, paths, texts))
    reader = own_reader(data.separator, paths.tokenizer())

    row_tokens = row_length(settings.row_tokens)
    limited = dataclasses.replace(config, model=row_limits(config))
    fitting = _read_examples(train, limited, reader, counts)
    if not fitting:
        raise DataError(f"{data.path}: holds no solution to train on; {paths.skipped_steps()} says why")
    source = _label_source([one for one, _ in fitting])
    if arms and not source.steps:
        raise DataError(
            f"{data.path}: no step to train on has a label besides the outcome, and arm {arms[0].arm} needs some; "
            "--config.train.arms=('orm',) trains on outcomes alone"
        )
    if isinstance(source, GivenLabels):
        for plan in arms:
            if plan.start not in WITHOUT_COUNTS:
                raise DataError(
                    f"arm {plan.arm}: {plan.start} needs counts of rollouts: the field rollouts in every row of "
                    f"{data.path}; without them choose among {', '.join(['orm', *WITHOUT_COUNTS])}"
                )
    table = {step_key(step): place for place, step in enumerate(source.steps)}
    examples = [_example(one, reading, table) for one, reading in fitting]
    # Step labels of meta solutions are not in the table. Unless they are trusted, only their outcomes are used.
    read_meta = _read_examples(meta, limited, reader, counts)
    outer = [_example(one, reading, None if data.meta else {}) for one, reading in read_meta]
    if learned and not outer:
        raise DataError(
            f"arm {learned[0]} needs trusted solutions: none of {data.path} has an outcome (fields outcome, passed, "
            "is_correct or correct) in its meta share; give --meta-steps, or leave the arm out of config.train.arms"
        )
    counts["train solutions"], counts["meta solutions"] = len(examples), len(outer)
    counts["labeled steps"] = len(source.steps)
    everything = examples if data.meta else examples + outer
    if "orm" in settings.arms and not any(np.isfinite(one.outcome) for one in everything):
        raise DataError(f"{data.path}: arm orm trains on outcomes, and no solution has one; leave it out")
    measured, read = None, _read_examples(evaluation, config, reader, counts)
    counts["evaluation solutions"] = len(read)
    if settings.evaluate_every:
        rows = [_example(one, reading, None) for one, reading in read]
        truth = {
            (_program(one).program_hash, index): one.labels[index] >= 0.5 for one, _ in read for index in one.known
        }
        size = settings.batch_size // settings.accumulation
        short = [one for one in rows if len(one.tokens) <= row_tokens] or outer
        measured = evaluation_set(short[: settings.evaluate_programs or None], row_tokens, size, truth)
        measured = measured._replace(dropped_tokens=counts[DROPPED_TOKENS])
    inner = PackedRows(everything, row_tokens, settings.batch_size, config.seed)
    held_out = inner
    if any(plan.held_out for plan in arms):
        held_out = PackedRows(examples, row_tokens, settings.batch_size, config.seed)
    outer_rows = inner
    if outer:
        outer_rows = PackedRows(outer, row_tokens, settings.meta.batch_size, config.seed + 1)
    loss = trusted_loss(model, settings.loss) if data.meta else None
    return StepData(RunData(model, source, examples, inner, outer_rows, held_out, measured, loss), read)


def _read(
    path: str, data: StepDataConfig, name: str, counts: Counter[str], skips: list[Skip], split: str = ""
) -> list[LabeledSteps]:
    found: list[LabeledSteps] = []
    if not path:
        return found
    with Progress(f"read {name} steps", None, "solution", visible=distributed.is_main()) as progress:
        for one in read_steps(path, data, split):
            if isinstance(one, Skip):
                counts[f"{name} rows skipped"] += 1
                skips.append(one)
            else:
                found.append(one)
                progress.add(units=1)
    return found


def _without(
    rows: list[LabeledSteps], others: Sequence[LabeledSteps], name: str, counts: Counter[str]
) -> list[LabeledSteps]:
    """The solutions in ``rows`` whose problem does not occur in ``others``."""
    held = {one.problem_id for one in others}
    kept = [one for one in rows if one.problem_id not in held]
    if len(kept) < len(rows):
        counts[f"{name} solutions left out: their problem is held out"] = len(rows) - len(kept)
    return kept


def _program(one: LabeledSteps) -> SteppedProgram:
    return SteppedProgram.of(one.problem_id, one.steps)


def _read_examples(
    rows: Sequence[LabeledSteps], config: Config, reader: FormReader, counts: Counter[str]
) -> list[tuple[LabeledSteps, Reading]]:
    """The solutions that fit into the model's context, with their token sequences."""
    found = []
    for one in rows:
        problem = Problem(one.problem_id, "", one.prompt, "", "", "", "")
        for _, tokens, ends in reader.read(problem, [_program(one)], config.model, counts, "function"):
            found.append((one, Reading(tokens, ends)))
    return found


def _label_source(rows: Sequence[LabeledSteps]) -> LabelSource:
    """The labels of all steps, with rollout counts and outcomes if every solution has rollout counts."""
    keyed = [(one, _program(one).program_hash) for one in rows]
    if not all(one.rollouts for one in rows):
        given = [GivenStep(one.problem_id, key, step, one.labels[step]) for one, key in keyed for step in one.known]
        return GivenLabels(cast(Sequence[StepLabel], given), {})
    labels, outcomes = [], {}
    for one, key in keyed:
        for step, (share, count) in enumerate(zip(one.labels, one.rollouts, strict=True)):
            passes, count = (round(share * count), count) if np.isfinite(share) else (0, 0)
            labels.append(counted_step((one.problem_id, key, step), passes, count, "given"))
        verdict = Verdict.AC if one.outcome else Verdict.WA
        outcomes[key] = Outcome(one.problem_id, key, verdict, int(one.outcome), 1, "", 0.0, "faithful", "PORTABLE")
    return LabelSource(labels, outcomes)


def _example(one: LabeledSteps, reading: Reading, table: Mapping[StepKey, int] | None) -> Example:
    """An example whose steps refer to rows of the label table, or, if ``table`` is None, have fixed labels."""
    program, labels = _program(one).program_hash, np.array(one.labels, np.float32)
    if table is None:
        index = np.where(np.isfinite(labels), 0, NO_LABEL).astype(np.int32)
    else:
        rows = [table.get((one.problem_id, program, step), NO_LABEL) for step in range(len(one.steps))]
        index = np.array(rows, np.int32)
    raw = np.where((index != NO_LABEL) & np.isfinite(labels), labels, np.float32(0))
    return Example(one.problem_id, program, reading.tokens, reading.ends, index, raw, one.outcome)


def trusted_loss(model: DecoderConfig, kind: LossKind) -> Loss:
    """L_out(theta, batch[, key]): the loss on trusted step labels and on known outcomes."""

    def loss(params: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        logits = batch_logits(model, params, batch)
        steps = step_loss(elementwise_loss(kind, logits, batch.raw), jnp.ones_like(logits), batch)
        return steps + outcome_loss(logits, batch)

    return loss
