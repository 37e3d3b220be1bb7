"""The choices of phi: parameterizations of the training targets and weights as small pure objects.

``LabelTable`` and ``WeightTable`` hold one number per step. ``corrector_net.CorrectorNet`` is a network shared by all
steps. A parameterization defines the initial phi, the (target, weight) of each step in a batch, and the corrected label
of every step. The loss is then ``mean(w * bce(logit, t))``.
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
    """Label-side parameters phi for n training steps."""

    @property
    def is_table(self) -> bool:
        """Whether every leaf of phi has one row per step. Such a row is updated only if its step was in the batch."""
        ...

    def init(self, raw_labels: Float[Array, " n"]) -> PyTree:
        """The initial phi for the Monte Carlo estimates in [0, 1]."""
        ...

    def targets_and_weights(
        self, phi: PyTree, indices: Int[Array, "*batch"], raw: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """Targets in (0, 1) and weights >= 0 of the steps at ``indices``, whose raw labels are ``raw``.

        Padding may use any valid index; the caller masks it out of the loss.
        """
        ...

    def labels(self, phi: PyTree, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """The corrected label of every step."""
        ...

    def project(self, phi: PyTree) -> PyTree:
        """Projects phi back into its domain. Call it after each outer step."""
        ...


@dataclass(frozen=True, eq=False)
class LabelTable:
    """t_i = sigmoid(phi_i), w_i = 1: learns the labels themselves (DreamPRM-Code, arXiv 2512.15000)."""

    floor: float = DEFAULT_FLOOR
    start: Float[Array, " n"] | None = None  # initial labels instead of the raw ones, such as estimates from EM
    is_table: ClassVar[bool] = True

    def init(self, raw_labels: Float[Array, " n"]) -> Float[Array, " n"]:
        """The logits of the initial labels after clipping to [floor, 1 - floor]; float32[n].

        Raises:
          ValueError: if ``start`` and the raw labels differ in length, or if an initial label is not in [0, 1].
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
        """phi unchanged: every logit is valid."""
        return phi


@dataclass(frozen=True)
class WeightTable:
    """t_i = raw label, w_i = clip(phi_i, 0, maximum), with phi_i = 1 at the start.

    The released code of DreamPRM-Code and the table of DreamPRM-1.5 use this form.
    """

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
        """The raw labels, because a weight changes how much a label counts and not the label itself."""
        return jnp.asarray(raw_labels)

    def project(self, phi: Float[Array, " n"]) -> Float[Array, " n"]:
        """phi clipped to [0, maximum]. Outside, the clip has derivative 0, and a weight could never return."""
        return jnp.clip(phi, 0.0, self.maximum)
