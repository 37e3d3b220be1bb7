"""The train stage: tokenizer, examples, and the arms one after another.

Every step-labeled arm starts with a warm-up on its labels and the outcomes, which arms with equal labels share, and
goes on from there: with the same labels, inferring them in every step, or learning them by the outer problem. ``orm``
trains on outcomes alone, for as many steps.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.config import Config
from dreamprm_jax.labeling.correction.methods import (
    ONLINE,
    LabelSource,
    StepKey,
    fault_evidence,
    fixed_labels,
    read_labels,
    step_key,
    undetected_fault_labels,
)
from dreamprm_jax.labeling.exact_truth import read_truth, why_no_truth
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig, require_forward_mode
from dreamprm_jax.models.reward import Params
from dreamprm_jax.models.tokenizer import load_tokenizer, prompt_text, save_tokenizer, train_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, Problem, Program, StepLabel, StepTruth
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training import distributed
from dreamprm_jax.training.arms import ORM, ArmPlan, arm_plans, describe, make_parametrisation
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.evaluate_during import EvaluationSet, evaluation_set
from dreamprm_jax.training.examples import DROPPED_TOKENS, Example, build_examples
from dreamprm_jax.training.feed import PackedRows
from dreamprm_jax.training.label_table import PADDING, pad_labels, padded_rows, place_replicated, place_table
from dreamprm_jax.training.loop import Arm, ArmData, check_settings, host_logits, train_arm
from dreamprm_jax.training.losses import Targets, make_inner_loss, make_outcome_loss
from dreamprm_jax.training.mesh import activate, check_divisible, make_mesh, optimizer_shardings
from dreamprm_jax.training.online_label_inference import alive_posterior, inferred_labels
from dreamprm_jax.training.parameters import initial_params
from dreamprm_jax.training.steps import make_meta_optimizer, make_optimizer

WINDOWS = ("train", "meta", "test")
Truth = Callable[[str], list[StepTruth]]  # of a window's steps


def train(config: Config, paths: Paths) -> dict[str, int]:
    """Trains every arm of ``config.train.arms``. Returns counts of what went in and what was left out.

    Raises:
      DataError: on unknown arms and settings out of range, an empty training or meta set, no step to correct, or meta
        problems that are also test problems.
    """
    settings, counts = config.train, Counter[str]()
    check_settings(settings)
    arms = arm_plans(settings)
    problems = {w: {p.problem_id: p for p in read_records(paths.problems(w), Problem)} for w in WINDOWS}
    for window in ("train", "meta"):
        if leaked := problems[window].keys() & problems["test"].keys():
            raise DataError(f"{len(leaked)} {window} problem(s) are also in the test window, first {min(leaked)}")
    programs = {w: read_records(paths.programs(w), Program) for w in ("train", "meta")}
    model = pretrained.model_config(config.model)
    tokenizer = distributed.main_first(
        "tokenizer", lambda: _tokenizer(config, model, paths, problems["train"], programs["train"])
    )
    outcomes = {w: read_records(paths.outcomes(w), Outcome) for w in ("train", "meta")}
    truth = functools.cache(functools.partial(read_truth, paths))
    source = label_source(config, paths, arms, outcomes["train"], truth)
    keys = [step_key(step) for step in source.steps]
    examples: dict[str, list[Example]] = {}
    for window, rows in (("train", keys), ("meta", [])):
        examples[window] = build_examples(
            tokenizer,
            config.model,
            problems[window],
            programs[window],
            outcomes[window],
            rows,
            counts,
            config.label.granularity,
        )
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

    mesh = make_mesh(settings.mesh)
    check_divisible(mesh, settings.batch_size, "config.train.batch_size")
    check_divisible(mesh, settings.meta.batch_size, "config.train.meta.batch_size")
    everything = examples["train"] + examples["meta"]
    inner = PackedRows(everything, settings.row_tokens, settings.batch_size, config.seed)
    outer = PackedRows(examples["meta"], settings.row_tokens, settings.meta.batch_size, config.seed + 1)
    held_out = inner
    if any(plan.held_out for plan in arms):
        held_out = PackedRows(examples["train"], settings.row_tokens, settings.batch_size, config.seed)
    params, frozen = initial_params(config, model, mesh)
    optimizer = make_optimizer(settings)
    shardings = optimizer_shardings(optimizer, params, jax.tree.map(lambda leaf: leaf.sharding, params), mesh)
    start = TrainState(params, jax.jit(optimizer.init, out_shardings=shardings)(params), (), ())
    counts["parameters"] = sum(leaf.size for leaf in jax.tree.leaves((params, frozen)))
    if model.lora is not None:
        counts["trainable parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    counts["packed rows"] = len(inner.rows)
    counts["tokens a row"] = inner.shape.tokens
    counts["packing efficiency, percent"] = round(100 * inner.packing_efficiency)

    measured = _evaluation_set(config, truth, examples["meta"], keys, counts[DROPPED_TOKENS])
    end = settings.warmup_steps + settings.steps
    if ORM in settings.arms:
        arm = Arm(ORM, make_outcome_loss(model, settings.loss), 0, end)
        data = ArmData(inner, outer, np.zeros(0, np.float32), config.seed, measured)
        train_arm(settings, model, mesh, arm, data, start, paths.arm(ORM), frozen)
    warm: dict[str, TrainState] = {}

    @functools.cache  # arms may start from the same labels
    def labels_at_start(name: str) -> tuple[Float[np.ndarray, " n"], Targets | None]:
        """Labels; or evidence, and what the training steps make of it."""
        if name in ONLINE:
            evidence, hidden = fault_evidence(source)
            return evidence.astype(np.float32), functools.partial(alive_posterior, hidden=hidden)
        return fixed_labels(name, source, settings.labels).astype(np.float32), None

    for plan in arms:
        labels, infer = labels_at_start(plan.start)
        counts[f"steps labeled {plan.start}"] = int(np.isfinite(labels).sum())
        if keys and not np.isfinite(labels).any():
            raise DataError(f"arm {plan.arm}: labeling {plan.start!r} gives none of the {len(keys)} steps a label")
        table = np.where(np.isfinite(labels), labels, PADDING)  # rows without a label are in no batch
        chosen = held_out if plan.held_out else inner
        data = ArmData(chosen.relabeled(labels), outer, table, config.seed, measured)
        loss = make_inner_loss(model, None, settings.outcome_weight, plan.loss, settings.labels.gce_q, infer)
        if plan.warmup not in warm:
            arm = Arm(plan.warmup, loss, 0, settings.warmup_steps)
            warm[plan.warmup] = train_arm(settings, model, mesh, arm, data, start, paths.arm(plan.warmup), frozen)
        first, corrected = warm[plan.warmup], labels
        if plan.learned:
            learner = make_parametrisation(plan.labeling, labels, source, settings.labels, config.seed)
            values = _learn(config, paths, model, mesh, plan, learner, data, first, frozen)
            corrected = np.where(np.isfinite(labels), values, np.nan)
        else:
            arm = Arm(plan.arm, loss, settings.warmup_steps, end)
            state = train_arm(settings, model, mesh, arm, data, first, paths.arm(plan.arm), frozen)
            if infer is not None:
                size = settings.batch_size // settings.accumulation
                each = PackedRows(examples["train"], settings.row_tokens, size, config.seed).relabeled(labels)
                logits_of = functools.partial(host_logits, model, mesh, state.params, frozen)
                with activate(model, mesh):
                    corrected = inferred_labels(logits_of, infer, each, len(keys))
                if (left_out := np.isnan(corrected)).any():  # programs that are no examples: too long, no verdict
                    corrected = np.where(left_out, undetected_fault_labels(source), corrected)
        if plan.labeling != "raw" and distributed.is_main():
            _write_labels(paths.corrected_labels(plan.arm), source, corrected, describe(plan, settings))
    return dict(counts)


def label_source(
    config: Config, paths: Paths, arms: list[ArmPlan], outcomes: list[Outcome], truth: Truth
) -> LabelSource:
    """Counts, outcomes and, where an arm asks for them, clean labels."""
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
    """The one place where training sees the truth: for the oracle and the calibrator, which are told apart by name."""
    if reason := why_no_truth(config):
        raise DataError(f"config.train.labels.clean_labels: labelings clean and calibrator need a file: {reason}")
    target = config.train.labels.clean_target
    return {(row.problem_id, row.program_hash, row.step_index): float(getattr(row, target)) for row in truth("train")}


def _evaluation_set(
    config: Config, truth: Truth, meta: list[Example], keys: list[StepKey], dropped_tokens: int
) -> EvaluationSet | None:
    """What to measure on during training, with the truth where there is one: it goes nowhere but there."""
    settings = config.train
    if not settings.evaluate_every:
        return None
    recoverable, label_truth = None, None
    if why_no_truth(config) is None:
        recoverable = {(row.program_hash, row.step_index): row.recoverable for row in truth("meta")}
        value = {(r.problem_id, r.program_hash, r.step_index): r.value for r in truth("train")}
        label_truth = np.asarray([value.get(key, np.nan) for key in keys], np.float32)
    size, limit = settings.batch_size // settings.accumulation, settings.evaluate_programs
    return evaluation_set(meta, settings.row_tokens, size, limit, recoverable, label_truth, dropped_tokens)


def _tokenizer(
    config: Config, model: DecoderConfig, paths: Paths, problems: dict[str, Problem], programs: list[Program]
) -> Tokenizer:
    """That of the pretrained weights, or else one trained here; kept in the run's folder for the score stage."""
    if config.model.weights and not paths.tokenizer().exists():
        tokenizer = pretrained.load_tokenizer(config.model, model)
        # Stored settings of the model's own training; here config.model.overlong decides, and packing pads.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        save_tokenizer(tokenizer, paths.tokenizer())
    if not paths.tokenizer().exists():
        texts = [prompt_text(problem) for problem in problems.values()] + [program.code for program in programs]
        save_tokenizer(
            train_tokenizer(texts, config.model.vocab_size, config.model.tokenizer_pieces), paths.tokenizer()
        )
    return load_tokenizer(paths.tokenizer())


def _learn(
    config: Config,
    paths: Paths,
    model: DecoderConfig,
    mesh: jax.sharding.Mesh,
    plan: ArmPlan,
    labels: Parametrisation,
    data: ArmData,
    warm: TrainState,
    frozen: Params,
) -> Float[np.ndarray, " n"]:
    """Trains an arm whose labels the outer problem learns. Returns the label of every step."""
    settings = config.train
    require_forward_mode(model)
    start = jnp.asarray(pad_labels(data.raw, padded_rows(len(data.raw))) if labels.is_table else data.raw)
    phi, place = labels.init(start), place_table if labels.is_table else place_replicated
    state = warm._replace(
        phi=place(phi, mesh), meta_opt_state=place(make_meta_optimizer(settings, labels).init(phi), mesh)
    )
    # A whole number of calls of K steps each.
    calls = math.ceil(settings.steps / settings.meta.unroll)
    arm = Arm(
        plan.arm,
        make_inner_loss(model, labels, settings.outcome_weight, plan.loss, settings.labels.gce_q),
        settings.warmup_steps,
        settings.warmup_steps + calls * settings.meta.unroll,
        labels,
    )
    state = train_arm(settings, model, mesh, arm, data, state, paths.arm(plan.arm), frozen)
    return np.asarray(labels.labels(distributed.to_host(state.phi), start))[: len(data.raw)]


def _write_labels(path: Path, source: LabelSource, labels: Float[np.ndarray, " n"], method: str) -> None:
    """The arm's labels beside the raw ones; a step that has none is left out."""
    rows = [
        CorrectedLabel(step.problem_id, step.program_hash, step.step_index, step.mean, float(label), method)
        for step, label in zip(source.steps, labels, strict=True)
        if np.isfinite(label)
    ]
    write_records(path, CorrectedLabel, rows)
