"""Aggregators reduce the step logits of one program to one number, by which candidates are ranked.

Which aggregator is best depends on what the labels estimate. If a label is a value (the probability that the prefix can
still pass), the last step is read. If it is the correctness of one step, scores are multiplied along the program, or
their minimum is taken (Lightman et al., arXiv 2305.20050). Monte-Carlo noise can change the best choice from min to max
(MiPS, arXiv 2402.02658). Sums and products favor short programs; the length-normalized forms do not.

All aggregators work on logits, so that scores that saturate to 1.0 in floating point can still be ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Aggregator = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(concatenated logits of all programs (T,), number of steps of each program (N,)) -> (N,)."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow at either end."""
    small = np.exp(-np.abs(logits))
    return np.where(np.asarray(logits) >= 0, 1.0, small) / (1.0 + small)


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """log(sigmoid(x)), without overflow at either end."""
    return -np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64))


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _last(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return logits[np.cumsum(lengths) - 1]


def _minimum(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.minimum.reduceat(logits, _starts(lengths))


def _maximum(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(logits, _starts(lengths))


def _mean(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.add.reduceat(sigmoid(logits), _starts(lengths)) / lengths


def _product(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.add.reduceat(log_sigmoid(logits), _starts(lengths))


def _product_normalized(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _product(logits, lengths) / lengths


def _sum_log_odds(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.add.reduceat(logits, _starts(lengths))


def _mean_log_odds(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _sum_log_odds(logits, lengths) / lengths


AGGREGATORS: Mapping[str, Aggregator] = {
    "last": _last,  # logit of the last step
    "min": _minimum,  # logit of the worst step
    "max": _maximum,  # logit of the best step
    "mean": _mean,  # mean score
    "product": _product,  # log of the product of the scores
    "product_normalized": _product_normalized,  # log of their geometric mean
    "sum_log_odds": _sum_log_odds,  # sum of the logits
    "mean_log_odds": _mean_log_odds,  # mean logit
}


def aggregate(step_logits: Sequence[Sequence[float] | np.ndarray], name: str) -> np.ndarray:
    """Aggregates the step logits of N programs.

    Args:
      step_logits: One sequence of logits per program; lengths may differ.
      name: A key of ``AGGREGATORS``.

    Returns:
      (N,) float64, comparable only within one aggregator. NaN for a program without steps or with a NaN logit: it has
      no score, and ``best_of_n`` ranks it last.

    Raises:
      KeyError: for an unknown aggregator.
    """
    if name not in AGGREGATORS:
        raise KeyError(f"unknown aggregator {name!r}; known: {', '.join(AGGREGATORS)}")
    rows = [np.asarray(row, dtype=np.float64) for row in step_logits]
    result = np.full(len(rows), np.nan)
    usable = [index for index, row in enumerate(rows) if row.size and not np.isnan(row).any()]
    if usable:
        lengths = np.array([rows[index].size for index in usable])
        result[usable] = AGGREGATORS[name](np.concatenate([rows[index] for index in usable]), lengths)
    return result


def as_probability(numbers: np.ndarray, name: str) -> np.ndarray:
    """Maps aggregated numbers to probabilities, for weighted votes and for comparison with accuracy.

    Args:
      numbers: Output of ``aggregate``; NaN stays NaN.
      name: The aggregator that was used.
    """
    result = np.array(numbers, dtype=np.float64)
    known = ~np.isnan(result)
    if name.startswith("product"):
        result[known] = np.exp(np.minimum(result[known], 0.0))
    elif name != "mean":
        result[known] = sigmoid(result[known])
    return result
