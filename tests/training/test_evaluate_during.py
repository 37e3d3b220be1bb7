"""Compares the metrics during training with sums over single programs and with cases calculated by hand."""

import jax
import numpy as np
import pytest
from training_toy import make_examples

from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.training.evaluate_during import evaluation_set, label_figures, meta_figures
from dreamprm_jax.training.feed import Shape, collate
from dreamprm_jax.training.losses import batch_logits
from dreamprm_jax.training.steps import LabelMove

FORWARD = jax.jit(batch_logits, static_argnums=0)


@pytest.fixture(scope="module")
def meta():
    return make_examples(11, seed=5, labeled=False)


@pytest.fixture(scope="module")
def truth(meta):
    """The truth of all steps, except those of one program."""
    rng = np.random.default_rng(0)
    return {(e.program_hash, i): bool(rng.integers(0, 2)) for e in meta[1:] for i in range(len(e.step_index))}


def test_every_program_counts_once_wherever_it_is_packed(micro, micro_params, meta, truth):
    chosen = evaluation_set(meta, 32, 3, truth)._replace(dropped_tokens=12)
    assert {batch.tokens.shape for batch in chosen.batches} == {(3, 32)}
    assert sum(int(batch.outcome_mask.sum()) for batch in chosen.batches) == len(meta)
    figures = meta_figures(lambda batch: np.asarray(FORWARD(micro, micro_params, batch)), chosen)

    alone = np.asarray(FORWARD(micro, micro_params, collate([[e] for e in meta], Shape(32, 4))))
    last = np.asarray([row[len(e.step_index) - 1] for row, e in zip(alone, meta, strict=True)])
    passed = np.asarray([e.outcome for e in meta])
    losses = -passed * np.log(1 / (1 + np.exp(-last))) - (1 - passed) * np.log(1 / (1 + np.exp(last)))
    assert figures["meta_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert figures["meta_outcome_auroc"] == pytest.approx(auroc(last, passed > 0.5))
    pairs = [
        (row[i], truth[e.program_hash, i])
        for row, e in zip(alone, meta, strict=True)
        for i in range(len(e.step_index))
        if (e.program_hash, i) in truth
    ]
    scores, good = map(np.asarray, zip(*pairs, strict=True))
    assert len(scores) == len(truth)
    assert figures["meta_step_auroc"] == pytest.approx(auroc(scores, good))
    assert figures["dropped_tokens"] == 12.0


def test_a_part_of_the_set_and_what_is_undefined(meta):
    chosen = evaluation_set(meta[:5], 32, 4)
    assert sum(int(batch.outcome_mask.sum()) for batch in chosen.batches) == 5
    figures = meta_figures(lambda batch: np.zeros(batch.step_index.shape), chosen)
    assert figures["meta_loss"] == pytest.approx(np.log(2))
    assert "meta_step_auroc" not in figures  # no truth
    one_class = evaluation_set([e for e in meta if e.outcome], 32, 4)
    assert "meta_outcome_auroc" not in meta_figures(lambda batch: np.zeros(batch.step_index.shape), one_class)
    assert meta_figures(lambda batch: np.zeros(0), evaluation_set([], 32, 4)) == {"dropped_tokens": 0.0}


def test_sign_agreement_by_hand():
    """The rows are: right, wrong, right, untouched, zero direction, label equal to the truth, unknown truth."""
    move = LabelMove(
        label=np.float32([0.2, 0.2, 0.9, 0.5, 0.5, 0.5, 0.5]),
        direction=np.float32([0.3, -0.1, -2.0, 1.0, 0.0, 1.0, 1.0]),
        touched=np.array([True, True, True, False, True, True, True]),
    )
    truth = np.float32([1.0, 1.0, 0.5, 0.0, 1.0, 0.5, np.nan])
    figures = label_figures(move, truth)
    assert figures["hypergradient_sign_agreement"] == pytest.approx(2 / 3)
    assert figures["label_error"] == pytest.approx((0.8 + 0.8 + 0.4 + 0.5 + 0.5 + 0.0) / 6)
    resting = move._replace(touched=np.zeros(7, bool))
    assert "hypergradient_sign_agreement" not in label_figures(resting, truth)
    assert label_figures(move, np.full(7, np.nan, np.float32)) == {}
