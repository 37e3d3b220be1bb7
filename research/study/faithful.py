"""The study's arm ``release_weight_table``: the two stages of the released code on the data of a unit.

These are the same as in the released code: both stages, their losses (MSE on the sigmoid, smoothed step labels), the
samples (one prefix each), the numbers of iterations and updates, the optimizers, the schedules and the clipping. These
differ: the learning rate of theta is that of the study's recipe, because the model is trained from scratch. There is no
L2 on theta: the released code applies it to adapters, but here it would apply to the whole model, whose accuracy then
stays at chance. There is no dropout, because there are no adapters. The format of the prompt is different.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.training.examples import NO_LABEL, Example
from dreamprm_jax.training.feed import Batch, Shape, collate
from dreamprm_jax.training.losses import batch_logits, elementwise_loss
from research.study.measures import Figures
from research.study.release import SMOOTHING, ReleaseSettings, clip_weights, second_stage, warm_up

if TYPE_CHECKING:
    from research.study.unit import Unit

WARM_EPOCHS, WARM_BATCH = 5, 32


class Sample(NamedTuple):
    """A prefix as a training sample, or a batch of them."""

    program: Any  # index of the program
    step: Any  # index of the prefix's last step
    label: Any  # step label or outcome
    row: Any  # index of the sample's weight; 0 and unused for outcomes


def train_release(unit: Unit, raw: Float[np.ndarray, " n"], frozen: bool) -> tuple[Any, Figures]:
    """Trains a model as the released code does.

    Args:
      unit: Programs and model.
      raw: Monte-Carlo labels of the rows of the unit's label table.
      frozen: Whether all weights stay at 1 (``--baseline`` of the released code).

    Returns:
      The parameters, and figures of the weights: their means, the fraction of rows that were touched (had a
      hypergradient), and the AUROC of weights for clean labels (within 0.5 of the truth) and for touched rows.
    """
    programs = [*unit.examples["train"], *unit.examples["meta"]]
    shape = Shape(max(len(one.tokens) for one in programs), max(len(one.step_index) for one in programs))
    rows = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *(collate([[p]], shape) for p in programs))
    first_meta = len(unit.examples["train"])
    steps = _samples(programs[:first_meta], raw, unit.own)
    outcomes = Sample(
        np.arange(first_meta, len(programs)),
        np.array([len(one.step_index) - 1 for one in programs[first_meta:]]),
        np.array([one.outcome for one in programs[first_meta:]], np.float32),
        np.zeros(len(programs) - first_meta, int),
    )
    rng = np.random.default_rng(unit.seed)
    settings = ReleaseSettings(
        learning_rate=unit.settings.recipe.learning_rate, weight_decay=0.0, learn_weights=not frozen
    )
    everything = Sample(*map(np.concatenate, zip(steps, outcomes, strict=True)))
    warm = _order(rng, len(everything.label), WARM_EPOCHS * len(everything.label) // WARM_BATCH * WARM_BATCH)
    updates = settings.iterations // settings.accumulation
    inner = _order(rng, len(steps.label), updates * settings.accumulation)
    outer = _order(rng, len(outcomes.label), updates)
    theta = unit.start_params()
    theta, weights = _run(
        unit.decoder, settings, theta, rows,
        _take(everything, warm.reshape(-1, WARM_BATCH)),
        _take(steps, inner.reshape(updates, -1)),
        _take(outcomes, outer),
        jnp.ones(len(raw)),
    )  # fmt: skip
    weights = np.asarray(weights)
    last = inner[settings.accumulation - 1 :: settings.accumulation]  # the samples that have a hypergradient
    touched = np.isin(np.arange(len(raw)), steps.row[last])
    mine = unit.own > 0
    clean = np.abs(raw - unit.recoverable) < 0.5
    figures = {"mean_weight": float(weights[mine].mean()), "weights_touched": float(touched[mine].mean())}
    if not frozen:
        figures["mean_weight_untouched"] = float(weights[mine & ~touched].mean())
        figures["weight_auroc_clean"] = auroc(weights[mine], clean[mine])
        figures["weight_auroc_touched"] = auroc(weights[mine], touched[mine])
    return theta, figures


def _samples(programs: Sequence[Example], raw: Float[np.ndarray, " n"], own: Float[np.ndarray, " n"]) -> Sample:
    found = [
        (number, step, raw[row], row)
        for number, one in enumerate(programs)
        for step, row in enumerate(one.label_index)
        if row != NO_LABEL and own[row] and np.isfinite(raw[row])
    ]
    program, step, label, row = (np.array(column) for column in zip(*found, strict=True))
    return Sample(program, step, label.astype(np.float32), row)


def _order(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """``count`` indices below ``size``, from consecutive shuffled epochs."""
    return np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]


def _take(samples: Sample, places: np.ndarray) -> Sample:
    return Sample(*(jnp.asarray(column[places]) for column in samples))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    model: DecoderConfig, settings: ReleaseSettings, theta: Any, rows: Batch,
    warm: Sample, inner: Sample, outer: Sample, weights: Array,
) -> tuple[Any, Array]:  # fmt: skip
    def score(theta: Any, sample: Sample) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[sample.program][None], rows)
        return batch_logits(model, theta, batch)[0, sample.step]

    def smoothed_loss(theta: Any, sample: Sample) -> Float[Array, ""]:
        label = sample.label * (1.0 - SMOOTHING) + 0.5 * SMOOTHING
        return elementwise_loss("mse", score(theta, sample), label)

    def warm_loss(theta: Any, samples: Sample) -> Float[Array, ""]:
        return jax.vmap(smoothed_loss, (None, 0))(theta, samples).mean()

    def inner_loss(theta: Any, weights: Array, sample: Sample) -> Float[Array, ""]:
        return clip_weights(weights[sample.row]) * smoothed_loss(theta, sample)

    def outer_loss(theta: Any, sample: Sample) -> Float[Array, ""]:
        return elementwise_loss("mse", score(theta, sample), sample.label)

    theta = warm_up(warm_loss, theta, warm, settings)
    return second_stage(inner_loss, outer_loss, theta, weights, inner, outer, settings)
