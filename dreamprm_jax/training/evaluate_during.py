"""Measurements during training: the reward model on the meta set, and labels and hypergradient against the truth.

The truth (only the procedural benchmark has one, see ``labeling/exact_truth.py``) is stored in the ``EvaluationSet``
and nowhere else in the loop. No compiled step and no loss receives it, so a run with it takes the same steps as a run
without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.training.examples import Example
from dreamprm_jax.training.feed import Batch, collate, packed_rows
from dreamprm_jax.training.steps import LabelMove

StepPlace = tuple[str, int]  # program hash, step index
Figures = dict[str, float]


class EvaluationSet(NamedTuple):
    """Arrays to measure on. Axis legend: B rows of a batch, S step slots of a row, n rows of the label table."""

    batches: tuple[Batch, ...]  # whole programs, each once; the last batch is filled up with empty rows
    recoverable: tuple[Float[np.ndarray, "B S"], ...]  # truth of each slot: 1 or 0, NaN if unknown
    label_truth: Float[np.ndarray, " n"] | None = None  # P(the policy's completion passes), NaN if unknown
    dropped_tokens: int = 0  # tokens that did not fit the model's context, in the whole training and meta set


def evaluation_set(
    examples: Sequence[Example], row_tokens: int, batch_size: int, recoverable: Mapping[StepPlace, bool] | None = None
) -> EvaluationSet:
    """Packs programs into batches of one shape.

    Args:
      examples: Programs with their outcomes: the meta set.
      row_tokens: Tokens per row.
      batch_size: Rows per batch.
      recoverable: Whether any completion of the program up to a step passes, for steps where this is known.
    """
    if not examples:
        return EvaluationSet((), ())
    packed, shape = packed_rows(examples, row_tokens, seed=0)
    rows = [[examples[i] for i in row] for row in packed]
    rows += [[] for _ in range(-len(rows) % batch_size)]
    groups = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    known = recoverable or {}
    truth = [np.stack([_row_truth(row, shape.steps, known) for row in group]) for group in groups]
    return EvaluationSet(tuple(collate(group, shape) for group in groups), tuple(truth))


def _row_truth(row: Sequence[Example], slots: int, known: Mapping[StepPlace, bool]) -> Float[np.ndarray, " S"]:
    values = [float(known.get((e.program_hash, i), np.nan)) for e in row for i in range(len(e.step_index))]
    return np.pad(np.asarray(values, np.float32), (0, slots - len(values)), constant_values=np.nan)


def meta_figures(logits_of: Callable[[Batch], Float[np.ndarray, "B S"]], chosen: EvaluationSet) -> Figures:
    """The outer loss over the whole set, and the AUROC of outcomes and steps. Undefined figures are left out.

    Returns:
      ``meta_loss`` (mean binary cross-entropy of the outcomes, nats), ``meta_outcome_auroc``, ``meta_step_auroc``
      (against recoverable prefixes, steps of all programs together), ``dropped_tokens``.
    """
    figures: Figures = {}
    if chosen.batches:
        logits = np.concatenate([np.asarray(logits_of(batch), np.float64) for batch in chosen.batches])
        ends = np.concatenate([batch.outcome_mask for batch in chosen.batches])
        passed = np.concatenate([batch.outcome for batch in chosen.batches])[ends]
        recoverable = np.concatenate(chosen.recoverable)
        known = np.isfinite(recoverable)
        last = logits[ends]
        figures = {
            "meta_loss": float(np.mean(np.logaddexp(0.0, last) - passed * last)) if len(last) else np.nan,
            "meta_outcome_auroc": auroc(last, passed > 0.5),
            "meta_step_auroc": auroc(logits[known], recoverable[known] > 0.5),
        }
    return _defined(figures) | {"dropped_tokens": float(chosen.dropped_tokens)}


def label_figures(move: LabelMove, truth: Float[np.ndarray, " n"], margin: float = 0.0) -> Figures:
    """The labels and the hypergradient of one step against the truth.

    Args:
      move: The labels before the step, and the direction in which the negative hypergradient moves them.
      truth: float32[n]; NaN if unknown. Rows of the table after the n-th are padding.
      margin: Labels within this distance of the truth do not count for the sign agreement.

    Returns:
      ``label_error``: mean |label - truth| before the step. ``hypergradient_sign_agreement``: among the rows that the
      step touched, the share that moves towards the truth (rows that do not move or are at the truth are left out). A
      figure that no row contributes to is absent.
    """
    label, direction, touched = (np.asarray(leaf)[: len(truth)] for leaf in move)
    known = np.isfinite(truth)
    error = np.where(known, truth - label, 0.0)
    counted: Bool[np.ndarray, " n"] = touched & (np.abs(error) > margin) & (direction != 0)
    agrees = np.sign(direction[counted]) == np.sign(error[counted])
    return _defined(
        {
            "label_error": float(np.mean(np.abs(error[known]))) if known.any() else np.nan,
            "hypergradient_sign_agreement": float(agrees.mean()) if counted.any() else np.nan,
        }
    )


def _defined(figures: Figures) -> Figures:
    return {name: value for name, value in figures.items() if not np.isnan(value)}
