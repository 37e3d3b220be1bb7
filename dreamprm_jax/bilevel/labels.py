"""What phi is: parametrisations of the training targets and weights as small pure objects.

``LabelTable`` and ``WeightTable`` hold one number a step, ``corrector_net.CorrectorNet`` a network for all steps.
A parametrisation answers three questions: where phi starts, which (target, weight) it gives a batch of steps, and which
label it gives every step. Losses then read ``mean(w * bce(logit, t))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.bilevel.partition import PyTree

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

DEFAULT_FLOOR = 0.02


class Parametrisation(Protocol):
    """Label-side parameters phi of n training steps."""

    @property
    def is_table(self) -> bool:
        """Whether every leaf of phi has one row a step: a row then moves only when its step was in the batch."""
        ...

    def init(self, raw_labels: Float[Array, " n"]) -> PyTree:
        """phi at the start, from the Monte-Carlo estimates in [0, 1]."""
        ...

    def targets_and_weights(
        self, phi: PyTree, indices: Int[Array, "*batch"], raw: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """Targets in (0, 1) and weights >= 0 of the steps at ``indices``, whose raw labels are ``raw``.

        Indices of padding may be any valid index; the caller masks them out of the loss.
        """
        ...

    def labels(self, phi: PyTree, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """The corrected label of every step."""
        ...

    def project(self, phi: PyTree) -> PyTree:
        """phi moved back into its domain: to be called after each outer step."""
        ...


@dataclass(frozen=True, eq=False)
class LabelTable:
    """t_i = sigmoid(phi_i), w_i = 1: the labels themselves are learned (DreamPRM-Code, arXiv 2512.15000)."""

    floor: float = DEFAULT_FLOOR
    start: Float[Array, " n"] | None = None  # labels to start at instead of the raw ones, such as an EM's estimates
    is_table: ClassVar[bool] = True

    def init(self, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """logit of the starting labels clipped to [floor, 1 - floor]; float32[n].

        Raises:
          ValueError: when ``start`` and the raw labels differ in length, or a starting label is not in [0, 1].
        """
        labels = np.asarray(raw_labels if self.start is None else self.start, np.float32)
        if labels.shape != jnp.shape(raw_labels):
            raise ValueError(f"start has shape {labels.shape}, the raw labels {jnp.shape(raw_labels)}")
        if not ((labels >= 0.0) & (labels <= 1.0)).all():
            row = int(np.argmin((labels >= 0.0) & (labels <= 1.0)))
            raise ValueError(f"label {row} is {labels[row]}: starting labels must be in [0, 1]")
        clipped = jnp.clip(jnp.asarray(labels), self.floor, 1.0 - self.floor)
        return jnp.log(clipped) - jnp.log1p(-clipped)

    def targets_and_weights(
        self, phi: Float[Array, " n"], indices: Int[Array, "*batch"], raw: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """(sigmoid(phi_i), 1)."""
        return jax.nn.sigmoid(phi[indices]), jnp.ones(jnp.shape(indices), phi.dtype)

    def labels(self, phi: Float[Array, " n"], raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """sigmoid(phi)."""
        return jax.nn.sigmoid(phi)

    def project(self, phi: Float[Array, " n"]) -> Float[Array, " n"]:
        """phi: every logit is allowed."""
        return phi


@dataclass(frozen=True)
class WeightTable:
    """t_i = raw label, w_i = clip(phi_i, 0, 2) from 1: the released code of DreamPRM-Code, and DreamPRM-1.5's table."""

    maximum: float = 2.0
    is_table: ClassVar[bool] = True

    def init(self, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """Ones; float32[n]."""
        return jnp.ones(jnp.shape(raw_labels), jnp.float32)

    def targets_and_weights(
        self, phi: Float[Array, " n"], indices: Int[Array, "*batch"], raw: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """(raw, clip(phi_i, 0, maximum))."""
        return raw, jnp.clip(phi[indices], 0.0, self.maximum)

    def labels(self, phi: Float[Array, " n"], raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """The raw labels: a weight changes how much a label counts, not the label."""
        return jnp.asarray(raw_labels)

    def project(self, phi: Float[Array, " n"]) -> Float[Array, " n"]:
        """phi clipped to [0, maximum]; outside, the derivative of the clip is 0 and a weight could never return."""
        return jnp.clip(phi, 0.0, self.maximum)
