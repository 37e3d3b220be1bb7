"""The training data of a run: examples in packed rows, step labels, and evaluation sets."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from dreamprm_jax.config import Config, ModelConfig
from dreamprm_jax.labeling.correction.methods import LabelSource, StepKey, read_labels, step_key
from dreamprm_jax.labeling.exact_truth import read_truth, why_no_truth
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.tokenizer import load_tokenizer, prompt_text, save_tokenizer, train_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, StepLabel, StepTruth
from dreamprm_jax.storage import read_records
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arms import ArmPlan
from dreamprm_jax.training.evaluate_during import EvaluationSet, evaluation_set
from dreamprm_jax.training.examples import DROPPED_TOKENS, Example, Window, build_examples
from dreamprm_jax.training.feed import PackedRows, row_length
from dreamprm_jax.training.losses import Loss

WINDOWS = ("train", "meta", "test")
Truth = Callable[[str], list[StepTruth]]  # of a window's steps


@dataclass(frozen=True)
class RunData:
    """The data of a run, as every arm uses it.

    Attributes:
      model: The decoder's shape and numerics.
      source: Step labels and what they are inferred from.
      train: Examples of the train window.
      inner: Rows of the train and meta programs, for the inner loss.
      outer: Rows of the meta programs, for the outer loss.
      held_out: Rows of the train programs, for arms that keep the meta programs' outcomes out of the inner loss.
      measured: What to measure on during training; None where nothing is measured.
      outer_loss: Of the learned labelings; None: the cross-entropy of the meta programs' outcomes.
    """

    model: DecoderConfig
    source: LabelSource
    train: list[Example]
    inner: PackedRows
    outer: PackedRows
    held_out: PackedRows
    measured: EvaluationSet | None
    outer_loss: Loss | None = None


def load_run_data(config: Config, paths: Paths, arms: list[ArmPlan], counts: Counter[str]) -> RunData:
    """Reads what the generate and label stages wrote, trains or copies the tokenizer, and packs the rows.

    Args:
      config: All settings.
      paths: Of the run.
      arms: The step-labeled arms.
      counts: Receives what went in and what was left out.

    Raises:
      DataError: On an empty train or meta set, no step to correct, or meta problems that are also test problems.
    """
    settings = config.train
    problems = {w: {p.problem_id: p for p in read_records(paths.problems(w), Problem)} for w in WINDOWS}
    for window in ("train", "meta"):
        if leaked := problems[window].keys() & problems["test"].keys():
            raise DataError(f"{len(leaked)} {window} problem(s) are also in the test window, first {min(leaked)}")
    windows = {
        w: Window(problems[w], read_records(paths.programs(w), Program), read_records(paths.outcomes(w), Outcome))
        for w in ("train", "meta")
    }
    model = pretrained.model_config(config.model)
    tokenizer = distributed.main_first(
        "tokenizer", lambda: make_tokenizer(config, model, paths, _texts(problems["train"], windows["train"].programs))
    )
    truth = functools.cache(functools.partial(read_truth, paths))
    source = _label_source(config, paths, arms, windows["train"].outcomes, truth)
    keys = [step_key(step) for step in source.steps]
    tokens, limits = row_length(settings.row_tokens), row_limits(config)
    examples: dict[str, list[Example]] = {}
    for window, rows in (("train", keys), ("meta", [])):
        examples[window] = build_examples(tokenizer, limits, windows[window], rows, counts, config.label.granularity)
        if not examples[window]:
            left_out = "".join(f"; {count} {reason}" for reason, count in counts.items())
            raise DataError(f"{paths.outcomes(window)}: no {window} program with a verdict to train on{left_out}")
        counts[f"{window} programs"] = len(examples[window])
    counts["noisy steps"] = len(keys)
    if not keys and (learned := [plan.arm for plan in arms if plan.learned]):
        raise DataError(
            f"{paths.step_labels()}: arm {learned[0]} has no step to correct, as no training program has two; "
            "leave it out of config.train.arms, or take a finer config.label.granularity"
        )
    everything = examples["train"] + examples["meta"]
    inner = PackedRows(everything, tokens, settings.batch_size, config.seed)
    outer = PackedRows(examples["meta"], tokens, settings.meta.batch_size, config.seed + 1)
    held_out = inner
    if any(plan.held_out for plan in arms):
        held_out = PackedRows(examples["train"], tokens, settings.batch_size, config.seed)
    measured = _evaluation_set(config, truth, examples["meta"], keys, counts[DROPPED_TOKENS])
    return RunData(model, source, examples["train"], inner, outer, held_out, measured)


def row_limits(config: Config) -> ModelConfig:
    """The length limits of a training example. A program longer than a row counts as longer than the context.

    With ``overlong="raise"`` only the context is a limit, and packing reports the program that does not fit a row.
    """
    limits = config.model
    if limits.overlong == "raise":
        return limits
    return dataclasses.replace(limits, max_length=min(limits.max_length, row_length(config.train.row_tokens)))


def _label_source(
    config: Config, paths: Paths, arms: list[ArmPlan], outcomes: Sequence[Outcome], truth: Truth
) -> LabelSource:
    """Counts, outcomes and, if an arm needs them, clean labels."""
    settings = config.train.labels
    wanted = {plan.labeling for plan in arms} & {"clean", "calibrator"}
    clean: dict[StepKey, float] = {}
    if wanted and settings.clean_labels:
        clean = read_labels(Path(settings.clean_labels))
    elif wanted:
        clean = _exact_truth(config, truth)
    labels = read_records(paths.step_labels(), StepLabel)
    return LabelSource(labels, {row.program_hash: row for row in outcomes}, clean, settings.clean_problems)


def _exact_truth(config: Config, truth: Truth) -> dict[StepKey, float]:
    """Exact labels for the arms ``clean`` and ``calibrator``: the only use of the truth in training."""
    if reason := why_no_truth(config):
        raise DataError(f"config.train.labels.clean_labels: labelings clean and calibrator need a file: {reason}")
    target = config.train.labels.clean_target
    return {(row.problem_id, row.program_hash, row.step_index): float(getattr(row, target)) for row in truth("train")}


def _evaluation_set(
    config: Config, truth: Truth, meta: list[Example], keys: list[StepKey], dropped_tokens: int
) -> EvaluationSet | None:
    """What to measure on during training. It holds the truth, if there is one, which no other part of training sees."""
    settings = config.train
    if not settings.evaluate_every:
        return None
    recoverable, label_truth = None, None
    if why_no_truth(config) is None:
        recoverable = {(row.program_hash, row.step_index): row.recoverable for row in truth("meta")}
        value = {(r.problem_id, r.program_hash, r.step_index): r.value for r in truth("train")}
        label_truth = np.asarray([value.get(key, np.nan) for key in keys], np.float32)
    chosen = meta[: settings.evaluate_programs or None]
    size = settings.batch_size // settings.accumulation
    found = evaluation_set(chosen, row_length(settings.row_tokens), size, recoverable)
    return found._replace(label_truth=label_truth, dropped_tokens=dropped_tokens)


def _texts(problems: dict[str, Problem], programs: Sequence[Program]) -> list[str]:
    return [prompt_text(problem) for problem in problems.values()] + [program.code for program in programs]


def make_tokenizer(config: Config, model: DecoderConfig, paths: Paths, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of the pretrained weights, or one trained here; saved in the run's folder for the score stage."""
    if config.model.weights and not paths.tokenizer().exists():
        tokenizer = pretrained.load_tokenizer(config.model, model)
        # The tokenizer's own truncation and padding do not apply: config.model.overlong and packing handle both.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        save_tokenizer(tokenizer, paths.tokenizer())
    if not paths.tokenizer().exists():
        save_tokenizer(
            train_tokenizer(texts, config.model.vocab_size, config.model.tokenizer_pieces), paths.tokenizer()
        )
    return load_tokenizer(paths.tokenizer())
