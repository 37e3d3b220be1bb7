"""A logistic calibrator, which predicts step labels from features and is fitted to steps with clean labels.

It is the simplest baseline for methods that learn from clean step labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dreamprm_jax.schema import DataError


@dataclass(frozen=True)
class Calibrator:
    """P(label = 1) = sigmoid(weight . standardized features + bias). Build it with ``fit_calibrator``."""

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weight: Float[np.ndarray, " F"]
    bias: float

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """The calibrated label of each step."""
        return _sigmoid((np.asarray(features, float) - self.mean) / self.scale @ self.weight + self.bias)


def fit_calibrator(
    features: Float[np.ndarray, "n F"],
    labels: Float[np.ndarray, " n"],
    ridge: float = 1.0,
    max_iterations: int = 50,
) -> Calibrator:
    """Logistic regression with a ridge penalty, by Newton's method.

    Args:
      features: Features of the steps with clean labels (Monte-Carlo estimate, position, outcome, EM label, ...).
      labels: Clean labels in [0, 1].
      ridge: Adds ridge / 2 times the squared weights (of standardized features, without the bias) to the summed loss.
      max_iterations: Maximum iterations of Newton's method, which stops when the largest step is below 1e-8.

    Returns:
      The fitted Calibrator.

    Raises:
      DataError: if shapes do not match, there are no rows, or labels are outside [0, 1].
    """
    features, labels = np.asarray(features, float), np.asarray(labels, float)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise DataError(
            f"calibrator: features {features.shape} and labels {labels.shape}: [n, F] and [n], n > 0 expected"
        )
    if not ((labels >= 0.0) & (labels <= 1.0)).all():
        raise DataError("calibrator: labels must be in [0, 1]")
    if ridge <= 0.0:
        raise DataError(f"calibrator: ridge={ridge} must be positive, or separable labels have no solution")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(features - mean) / scale, np.ones(len(labels))])
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 1e-6  # keeps the otherwise unpenalized bias finite if all labels are equal
    solution = np.zeros(design.shape[1])

    def loss(candidate: Float[np.ndarray, " F+1"]) -> float:
        logits = design @ candidate
        return float((np.logaddexp(0.0, logits) - labels * logits).sum() + 0.5 * (penalty * candidate**2).sum())

    for _ in range(max_iterations):
        predicted = _sigmoid(design @ solution)
        gradient = design.T @ (predicted - labels) + penalty * solution
        curvature = (design * (predicted * (1.0 - predicted))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while loss(solution - length * step) > loss(solution) and length > 1e-6:
            length /= 2  # Newton's full step may overshoot if the loss is nearly linear
        solution = solution - length * step
        if np.abs(length * step).max() < 1e-8:
            break
    return Calibrator(mean, scale, solution[:-1], float(solution[-1]))


def _sigmoid(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.exp(-np.logaddexp(0.0, -logits))
