"""The online undetected-fault EM: its posterior compared with all state sequences, and with good and bad models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from state_sequences import brute_force

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED
from dreamprm_jax.labeling.correction.methods import (
    LabelSource,
    _faults,
    fault_evidence,
    step_key,
    undetected_fault_labels,
)
from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.training.examples import NO_LABEL, Example
from dreamprm_jax.training.feed import Batch, PackedRows, Shape, collate
from dreamprm_jax.training.losses import batch_logits, elementwise_loss, make_inner_loss, outcome_loss, step_loss
from dreamprm_jax.training.online_label_inference import SMALLEST_HAZARD, alive_posterior, inferred_labels
from research.study.reading import examples
from research.study.regimes import REGIMES
from research.study.world import Sizes, draw_labels, make_world

HIDDEN = 0.15


def example(evidence, outcome: float, first_row: int = 0) -> Example:
    """A program with one token per step. Steps with NaN evidence, and the last step, have no row in the label table."""
    evidence = np.append(np.asarray(evidence, np.float32), np.nan)
    steps = len(evidence)
    known = np.isfinite(evidence)
    index = np.where(known, first_row + np.arange(steps), NO_LABEL).astype(np.int32)
    raw = np.where(known, evidence, 0.0).astype(np.float32)
    return Example("p", "h", np.ones(steps, np.int32), np.arange(steps, dtype=np.int32), index, raw, outcome)


def expected_posterior(scores: np.ndarray, one: Example) -> np.ndarray:
    """P(alive) of every step of a program, by brute force, with the hazards given by its scores."""
    before = np.minimum.accumulate(np.append(1.0, scores))[:-1]
    hazard = np.clip(1 - scores / before, SMALLEST_HAZARD, 1 - SMALLEST_HAZARD)
    alive = np.where(one.label_index != NO_LABEL, one.raw, 0.5)
    dead = 1 - alive
    alive[-1] = dead[-1] = 1.0  # the evidence of the last step is the outcome
    return brute_force(hazard, HIDDEN, alive, dead, PASSED if one.outcome else FAILED)[0]


def test_posterior_is_that_of_all_state_sequences():
    nan = np.nan
    rows = [
        [example([0.8, 0.6, 1.0], 0.0), example([0.3, 0.4], 1.0), example([], 0.0)],
        [example([nan, 0.2, nan, 0.7], 0.0), example([0.9], 0.0)],
    ]
    batch = collate(rows, Shape(12, 10))
    logits = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32) * 2
    posterior = np.asarray(alive_posterior(jnp.asarray(logits), jax.tree.map(jnp.asarray, batch), HIDDEN))
    for row, programs in enumerate(rows):
        place = 0
        for one in programs:
            end = place + len(one.raw)
            scores = 1 / (1 + np.exp(-logits[row, place:end].astype(float)))
            np.testing.assert_allclose(posterior[row, place:end], expected_posterior(scores, one), atol=1e-5)
            place = end


def test_hazards_by_step_index_give_the_offline_posterior():
    """If the scores give the fitted hazards, online and offline inference agree."""
    world = make_world(3, Sizes(train=60, meta=2, test=2, test_programs=1))
    outcomes = {row.program_hash: row for row in world.outcomes("train")}
    source = LabelSource(draw_labels(world, REGIMES["weak_tests"], "train", world.programs["train"]), outcomes)
    keys = [step_key(row) for row in source.steps]
    evidence, hidden = fault_evidence(source)
    found = _faults(source)[1]
    score = np.cumprod(1.0 - found.hazard)
    rows = PackedRows(examples("structure", None, world, keys)["train"], 64, 4, 0)

    def fitted(batch: Batch) -> np.ndarray:
        logits = np.zeros(batch.step_index.shape)
        for row in range(len(logits)):
            column = 0
            for slot in range(logits.shape[1]):
                here = score[min(column, len(score) - 1)]  # the count continues in slots after the last program
                logits[row, slot] = np.log(here / (1 - here))
                column = 0 if batch.outcome_mask[row, slot] else column + 1
        return logits

    infer = functools.partial(alive_posterior, hidden=hidden)
    labels = inferred_labels(fitted, infer, rows.relabeled(evidence.astype(np.float32)), len(keys))
    # The evidence is averaged over the possible pass rates of a problem; the offline chain sums over them.
    difference = np.abs(labels - undetected_fault_labels(source))
    assert difference.max() < 0.1
    assert difference.mean() < 3e-3


@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_scores_and_counts_that_contradict_the_outcome_give_labels_all_the_same(logit):
    rows = [[example([1.0] * 30, 0.0), example([0.0] * 30, 1.0)]]
    batch = jax.tree.map(jnp.asarray, collate(rows, Shape(70, 62)))
    logits = jnp.full((1, 62), logit)
    posterior = np.asarray(alive_posterior(logits, batch, 1e-6))[0]
    assert np.isfinite(posterior).all()
    assert posterior[30] == pytest.approx(0.0, abs=1e-6)  # failed, although all rollouts pass
    np.testing.assert_allclose(posterior[31:], 1.0, atol=1e-5)  # passed


def test_no_gradient_flows_through_the_posterior(micro, micro_params):
    batch = jax.tree.map(jnp.asarray, collate([[example([0.8, 0.6, 1.0], 0.0), example([0.3], 1.0)]], Shape(8, 6)))
    infer = functools.partial(alive_posterior, hidden=HIDDEN)
    targets = infer(batch_logits(micro, micro_params, batch), batch)

    def fixed(params):
        logits = batch_logits(micro, params, batch)
        steps = step_loss(elementwise_loss("bce", logits, targets), jnp.ones_like(targets), batch)
        return steps + 0.5 * outcome_loss(logits, batch)

    loss = make_inner_loss(micro, None, 0.5, infer=infer)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6),
        jax.grad(loss)(micro_params, (), batch),
        jax.grad(fixed)(micro_params),
    )


def test_a_model_that_knows_mends_the_labels_and_one_that_guesses_costs_little():
    world = make_world(3, Sizes(train=150, meta=2, test=2, test_programs=1))
    programs = world.programs["train"]
    outcomes = {row.program_hash: row for row in world.outcomes("train")}
    source = LabelSource(draw_labels(world, REGIMES["k1"], "train", programs), outcomes)
    keys = [step_key(row) for row in source.steps]
    alive = {one.program.program_hash: one.recoverable for one in programs}
    truth = np.array([alive[key[1]][key[2]] for key in keys])
    evidence, hidden = fault_evidence(source)
    found = examples("structure", None, world, keys)["train"]
    rows = PackedRows(found, 64, 4, 0).relabeled(evidence.astype(np.float32))
    infer = functools.partial(alive_posterior, hidden=hidden)
    by_tokens = {tuple(one.tokens): alive[one.program_hash] for one in found}

    def knowing(batch, right: float) -> np.ndarray:
        """Logits that are right with the given probability per step."""
        logits, rng = np.zeros(batch.step_index.shape), np.random.default_rng(int(batch.tokens.sum()))
        for row in range(len(batch.tokens)):
            place = 0
            for segment in range(1, batch.segments[row].max() + 1):
                state = by_tokens[tuple(batch.tokens[row][batch.segments[row] == segment])]
                told = state ^ (rng.random(len(state)) > right)
                logits[row, place : place + len(state)] = np.where(told, 2.0, -2.0)
                place += len(state)
        return logits

    plain = undetected_fault_labels(source)
    informed, ignorant = (
        inferred_labels(functools.partial(knowing, right=right), infer, rows, len(keys)) for right in (0.9, 0.5)
    )
    assert auroc(informed, truth) > auroc(plain, truth) + 0.005
    assert np.mean((informed - truth) ** 2) < 0.8 * np.mean((plain - truth) ** 2)
    assert auroc(ignorant, truth) > auroc(plain, truth) - 0.03
    assert np.isnan(inferred_labels(functools.partial(knowing, right=0.5), infer, rows, len(keys) + 1)[-1])
