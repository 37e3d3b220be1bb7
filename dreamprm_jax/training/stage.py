"""The train stage: tokenizer, examples, and the arms one after another.

``warmup`` trains on raw step labels and outcomes; ``raw`` and ``corrected`` both go on from its end, the one with the
raw labels, the other learning the labels by the outer problem; ``orm`` trains on outcomes alone, for as many steps.
"""

from __future__ import annotations

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable
from dreamprm_jax.config import Config, MetaConfig
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig, require_forward_mode
from dreamprm_jax.models.reward import Params
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, Problem, Program, StepLabel
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.examples import Example, LabelledSteps, build_examples, label_table_rows
from dreamprm_jax.training.feed import PackedRows
from dreamprm_jax.training.loop import Arm, Data, make_meta_optimizer, make_optimizer, train_arm
from dreamprm_jax.training.losses import make_inner_loss, make_outcome_loss
from dreamprm_jax.training.mesh import check_divisible, make_mesh, optimizer_shardings
from dreamprm_jax.training.parameters import initial_params
from dreamprm_jax.training.table import pad_labels, padded_rows, place_table
from dreamprm_jax.training.tokenizer import load_tokenizer, prompt_text, save_tokenizer, train_tokenizer
from dreamprm_jax.workdir import Paths

WINDOWS = ("train", "meta", "test")
ARMS = ("orm", "raw", "corrected")


def train(config: Config, paths: Paths) -> dict[str, int]:
    """Trains every arm of ``config.train.arms``. Returns counts of what went in and what was left out.

    Raises:
      DataError: on unknown arms, an empty training or meta set, or meta problems that are also test problems.
    """
    settings, counts = config.train, Counter[str]()
    if unknown := set(settings.arms) - set(ARMS):
        raise DataError(f"config.train.arms: unknown {', '.join(sorted(unknown))}; choose among {', '.join(ARMS)}")
    problems = {
        w: {p.problem_id: p for p in read_records(paths.problems(w), Problem)} for w in ("train", "meta", "test")
    }
    for window in ("train", "meta"):
        if leaked := problems[window].keys() & problems["test"].keys():
            raise DataError(f"{len(leaked)} {window} problem(s) are also in the test window, first {min(leaked)}")
    programs = {w: read_records(paths.programs(w), Program) for w in ("train", "meta")}
    model = pretrained.model_config(config.model)
    tokenizer = _tokenizer(config, model, paths, problems["train"], programs["train"])
    table = label_table_rows(read_records(paths.step_labels(), StepLabel))
    nothing = LabelledSteps([], np.zeros(0, np.float32))
    examples: dict[str, list[Example]] = {}
    for window, rows in (("train", table), ("meta", nothing)):
        outcomes = read_records(paths.outcomes(window), Outcome)
        examples[window] = build_examples(
            tokenizer,
            config.model,
            problems[window],
            programs[window],
            outcomes,
            rows,
            counts,
            config.label.granularity,
        )
        if not examples[window]:
            left_out = "".join(f"; {count} {reason}" for reason, count in counts.items())
            raise DataError(f"{paths.outcomes(window)}: no {window} program with a verdict to train on{left_out}")
        counts[f"{window} programs"] = len(examples[window])
    counts["noisy step labels"] = len(table.raw)

    mesh = make_mesh(settings.mesh)
    check_divisible(mesh, settings.batch_size, "config.train.batch_size")
    check_divisible(mesh, settings.meta.batch_size, "config.train.meta.batch_size")
    everything = examples["train"] + examples["meta"]
    inner = PackedRows(everything, settings.row_tokens, settings.batch_size, config.seed)
    outer = PackedRows(examples["meta"], settings.row_tokens, settings.meta.batch_size, config.seed + 1)
    all_outcomes = Data(inner, outer, table.raw, config.seed)
    data = all_outcomes
    if settings.meta.held_out:
        alone = PackedRows(examples["train"], settings.row_tokens, settings.batch_size, config.seed)
        data = Data(alone, outer, table.raw, config.seed)
    params, frozen = initial_params(config, model, mesh)
    optimizer = make_optimizer(settings)
    shardings = optimizer_shardings(optimizer, params, jax.tree.map(lambda leaf: leaf.sharding, params), mesh)
    start = TrainState(params, jax.jit(optimizer.init, out_shardings=shardings)(params), (), ())
    counts["parameters"] = sum(leaf.size for leaf in jax.tree.leaves((params, frozen)))
    if model.lora is not None:
        counts["trainable parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    counts["packed rows"] = len(inner.rows)
    counts["tokens a row"] = inner.shape.tokens
    counts["percent of tokens that are no padding"] = round(100 * inner.fill)

    end = settings.warmup_steps + settings.steps
    if "orm" in settings.arms:
        arm = Arm("orm", make_outcome_loss(model), 0, end)
        train_arm(settings, model, mesh, arm, all_outcomes, start, paths.arm("orm"), frozen)
    if {"raw", "corrected"} & set(settings.arms):
        loss = make_inner_loss(model, None, settings.outcome_weight)
        arm = Arm("warmup", loss, 0, settings.warmup_steps)
        warm = train_arm(settings, model, mesh, arm, data, start, paths.arm("warmup"), frozen)
        if "raw" in settings.arms:
            arm = Arm("raw", loss, settings.warmup_steps, end)
            train_arm(settings, model, mesh, arm, data, warm, paths.arm("raw"), frozen)
        if "corrected" in settings.arms:
            _correct(config, paths, model, mesh, data, warm, frozen, table)
    return dict(counts)


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


def parametrisation(meta: MetaConfig, floor: float) -> Parametrisation:
    """The label-side parameters that the settings name."""
    return LabelTable(floor) if meta.parametrisation == "label_table" else WeightTable()


def _correct(
    config: Config,
    paths: Paths,
    model: DecoderConfig,
    mesh: jax.sharding.Mesh,
    data: Data,
    warm: TrainState,
    frozen: Params,
    table: LabelledSteps,
) -> None:
    settings = config.train
    require_forward_mode(model)
    labels = parametrisation(settings.meta, settings.label_floor)
    raw = jnp.asarray(pad_labels(table.raw, padded_rows(len(table.raw))))
    phi = place_table(labels.init(raw), mesh)
    meta_state = place_table(make_meta_optimizer(settings, labels).init(phi), mesh)
    start = warm._replace(phi=phi, meta_opt_state=meta_state)
    # A whole number of calls of K steps each.
    calls = math.ceil(settings.steps / settings.meta.unroll)
    arm = Arm(
        "corrected",
        make_inner_loss(model, labels, settings.outcome_weight),
        settings.warmup_steps,
        settings.warmup_steps + calls * settings.meta.unroll,
        labels,
    )
    state = train_arm(settings, model, mesh, arm, data, start, paths.arm("corrected"), frozen)
    corrected = np.asarray(labels.labels(state.phi, raw))[: len(table.raw)]
    method = f"{settings.meta.parametrisation}/{settings.meta.method}/K={settings.meta.unroll}"
    write_records(
        paths.corrected_labels("corrected"),
        CorrectedLabel,
        [
            CorrectedLabel(problem, program, step, float(old), float(new), method)
            for (problem, program, step), old, new in zip(table.keys, table.raw, corrected, strict=True)
        ],
    )
