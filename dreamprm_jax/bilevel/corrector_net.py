"""Amortized label correction: a small network reads a step's features, and labels never rise along a program.

    t_i = prod of s_j over the steps j <= i of the same program,     s_j = sigmoid(base_j + net(features_j))

s_j is the probability that a completion survives step j, given that it survived all earlier steps. Every factor is
below 1, so the product falls along the program for any output of the network: the probability that a completion still
passes cannot rise. One phi serves all steps, including steps that no batch has contained so far. A table learns each
label separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.bilevel.labels import DEFAULT_FLOOR

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Phi = dict[str, Any]


@dataclass(frozen=True, eq=False)
class CorrectorNet:
    """A ``Parametrisation`` with one hidden layer. Build it with ``corrector_net``."""

    features: Float[Array, "n F"]
    prefix: Int[Array, "n S"]  # rows of the same program up to and including each step; n as padding
    base: Float[Array, " n"]  # initial logit of s_j
    hidden: int
    seed: int
    is_table: ClassVar[bool] = False

    def init(self, raw_labels: Float[Array, " n"]) -> Phi:
        """Network parameters. The last layer is zero, so that the labels start at the monotone fit of the raw ones."""
        if jnp.shape(raw_labels) != self.base.shape:
            raise ValueError(f"{jnp.shape(raw_labels)} raw labels for a corrector of {self.base.shape} steps")
        size = self.features.shape[1]
        kernel = jax.random.normal(jax.random.key(self.seed), (size, self.hidden)) / np.sqrt(size)
        return {
            "kernel": kernel,
            "bias": jnp.zeros(self.hidden),
            "head": jnp.zeros(self.hidden),
            "shift": jnp.zeros(()),
        }

    def targets_and_weights(
        self, phi: Phi, indices: Int[Array, "*batch"], raw: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """(t_i, 1)."""
        rows = self.prefix[indices]  # [*batch, S]
        inside = rows < len(self.base)
        rows = jnp.where(inside, rows, 0)
        hidden = jnp.tanh(self.features[rows] @ phi["kernel"] + phi["bias"])
        logits = self.base[rows] + hidden @ phi["head"] + phi["shift"]
        targets = jnp.exp(jnp.sum(jnp.where(inside, jax.nn.log_sigmoid(logits), 0.0), axis=-1))
        return targets, jnp.ones_like(targets)

    def labels(self, phi: Phi, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """t of every step."""
        return self.targets_and_weights(phi, jnp.arange(len(self.base)), jnp.asarray(raw_labels))[0]

    def project(self, phi: Phi) -> Phi:
        """phi unchanged: every value is valid."""
        return phi


def corrector_net(
    raw_labels: Float[np.ndarray, " n"],
    features: Float[np.ndarray, "n F"],
    program: Int[np.ndarray, " n"],
    hidden: int = 16,
    seed: int = 0,
    floor: float = DEFAULT_FLOOR,
) -> CorrectorNet:
    """Builds the ``CorrectorNet`` of a set of programs.

    Args:
      raw_labels: Monte Carlo estimates in [0, 1].
      features: features of each step. Each column is standardized here.
      program: program number of each step. The rows of a program must be consecutive and in the order of its steps.
      hidden: number of hidden units.
      seed: seed of the first layer's initialization.
      floor: the initial labels are clipped to [floor, 1 - floor].

    Returns:
      The parameterization. Its labels start at the best nonincreasing fit (least squares) of each program's raw labels.

    Raises:
      ValueError: if shapes do not match, or if the rows of a program are not consecutive.
    """
    from scipy.optimize import isotonic_regression  # jax depends on scipy; importing it takes a while

    raw_labels, features, program = np.asarray(raw_labels, float), np.asarray(features, float), np.asarray(program)
    count = len(raw_labels)
    if features.ndim != 2 or len(features) != count or program.shape != (count,) or count == 0:
        raise ValueError(f"features {features.shape} and program {program.shape} do not fit {count} raw labels")
    starts = np.flatnonzero(np.concatenate([[True], program[1:] != program[:-1]]))
    if len(np.unique(program)) != len(starts):
        raise ValueError("program: the rows of one program must be consecutive")
    first = np.repeat(starts, np.diff(np.append(starts, count)))
    place = np.arange(count) - first
    prefix = first[:, None] + np.arange(place.max() + 1)[None, :]
    prefix = np.where(prefix <= np.arange(count)[:, None], prefix, count)

    ends = np.append(starts[1:], count)
    programs = [raw_labels[a:b] for a, b in zip(starts, ends, strict=True)]
    falling = np.concatenate([isotonic_regression(labels, increasing=False).x for labels in programs])
    falling = np.clip(falling, floor, 1.0 - floor)
    before = np.where(place == 0, 1.0, np.concatenate([[1.0], falling[:-1]]))
    # A flat range would need s = 1, an infinite logit. The bound 0.999 leaves the labels almost unchanged.
    survival = np.minimum(falling / before, 0.999)
    scale = features.std(axis=0)
    standardized = (features - features.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    return CorrectorNet(
        jnp.asarray(standardized, jnp.float32),
        jnp.asarray(prefix, jnp.int32),
        jnp.asarray(np.log(survival) - np.log1p(-survival), jnp.float32),
        hidden,
        seed,
    )
