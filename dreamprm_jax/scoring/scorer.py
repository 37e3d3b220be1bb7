"""Runs one reward model over token sequences, packed, and hands back the logits that are asked for."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.fused import platform
from dreamprm_jax.models.kernels.dual_attention import TARGETS
from dreamprm_jax.models.reward import Params, step_logits
from dreamprm_jax.schema import DataError, Program, Score
from dreamprm_jax.scoring.packing import Packed, pack, row_length, whole_shapes, work
from dreamprm_jax.selection.aggregators import sigmoid
from dreamprm_jax.training.flops import layer_elements
from dreamprm_jax.training.mesh import activate, batch_sharding, batch_ways


@dataclass(frozen=True)
class Reading:
    """A sequence, and the tokens after which the reward model is asked."""

    tokens: Int[np.ndarray, " t"]
    ends: Int[np.ndarray, " s"]  # places of the sequence: the last token of each step


@dataclass(frozen=True)
class ProgramReading:
    """One program after its problem's prompt."""

    program: Program
    reading: Reading


@functools.partial(jax.jit, static_argnums=0)
def _token_logits(
    model: DecoderConfig, params: Params, tokens: Array, positions: Array, reach: Array, blocks: Array | None
) -> Float[Array, "B T"]:
    """Of every token. Compiled once a shape for all models of one form: the arms of a run share it."""
    everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return step_logits(model, params, tokens, positions, None, everywhere, reach=reach, blocks=blocks)


class Scorer:
    """A reward model on its devices, with what it has compiled and how much it has computed.

    Attributes:
      counts: tokens of all sequences; ``tokens computed``, each shared one once; ``padding`` beside them; ``batches``.
      shapes: of the batches so far. Each compiles once.
    """

    def __init__(
        self,
        model: DecoderConfig,
        mesh: jax.sharding.Mesh,
        params: Params,
        row_tokens: int = 8192,
        batch_tokens: int = 16384,
    ) -> None:
        """Readies the model; nothing is compiled yet.

        Args:
          model: its shape and numerics.
          mesh: where ``params`` lie.
          params: all of them, adapters beside their kernels.
          row_tokens: tokens of a row, rounded up to a power of two.
          batch_tokens: tokens of a batch, over all devices.
        """
        kind = "chunked" if model.attention == "einsum" else model.attention  # never the whole score matrix at once
        self.model = dataclasses.replace(model, attention=kind, derivative="none")
        self.mesh = mesh
        self.params = params
        self.row_tokens = row_length(row_tokens)
        self.batch_tokens = batch_tokens
        self.counts: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()

    def logits(
        self, readings: Sequence[Reading], progress: Callable[[int], object] = lambda done: None
    ) -> list[Float[np.ndarray, " s"]]:
        """The logit at each asked place of each sequence, in the sequences' order; float64.

        Args:
          readings: sequences of at least one token each.
          progress: called with the number of sequences that each batch has finished.
        """
        results: list[np.ndarray] = [np.zeros(0)] * len(readings)
        ways = batch_ways(self.mesh)
        sharding = batch_sharding(self.mesh)
        waiting: list[tuple[Packed, Array]] = []

        def collect() -> None:
            packed, output = waiting.pop(0)
            values = np.asarray(output, np.float64)
            for index, (row, path) in packed.places.items():
                results[index] = values[row, path[readings[index].ends]]
            progress(len(packed.places))

        with activate(self.model, self.mesh):
            for packed in self._pack([r.tokens for r in readings], ways):
                self._count(packed, readings)
                arrays = jax.device_put((packed.tokens, packed.positions, packed.reach, packed.blocks), sharding)
                waiting.append((packed, _token_logits(self.model, self.params, *arrays)))
                if len(waiting) > 1:  # the devices work on one batch while the host reads the one before
                    collect()
            while waiting:
                collect()
        return results

    def _pack(self, sequences: Sequence[np.ndarray], ways: int) -> list[Packed]:
        """Prefix trees, or a row a sequence: what costs less on this device. It depends on the sequences alone."""
        model = self.model
        per_key = 2 * model.num_heads * model.head_dim / layer_elements(model)
        plain = platform() not in TARGETS
        trees = pack(sequences, self.row_tokens, self.batch_tokens, ways)
        whole = whole_shapes(sequences, self.batch_tokens, ways)
        if work([packed.shape for packed in trees], per_key, plain) <= work(whole, per_key, plain):
            return trees
        return pack(sequences, self.row_tokens, self.batch_tokens, ways, share=False)

    def summary(self) -> dict[str, int]:
        """The counts and the number of compilations so far."""
        return dict(self.counts) | {"compilations": len(self.shapes)}

    def _count(self, packed: Packed, readings: Sequence[Reading]) -> None:
        self.shapes.add(packed.shape)
        self.counts["tokens"] += sum(len(readings[index].tokens) for index in packed.places)
        self.counts["tokens computed"] += packed.distinct
        self.counts["padding"] += packed.tokens.size - packed.distinct
        self.counts["batches"] += 1


NOT_FINITE = "the reward model's logit is not finite; its weights or numerics are at fault"


def is_finite(logits: Float[np.ndarray, " s"]) -> bool:
    """Whether every logit of a sequence is a number; a NaN passes for a score where nobody looks."""
    return bool(np.isfinite(logits).all())


def score_row(program: Program, logits: Float[np.ndarray, " s"], model: str, checkpoint: str) -> Score:
    """The Score row of a program's step logits.

    Raises:
      DataError: where a logit is not finite.
    """
    if not is_finite(logits):
        raise DataError(f"{model} ({checkpoint}), problem {program.problem_id}, {program.program_hash}: {NOT_FINITE}")
    return Score(
        problem_id=program.problem_id,
        program_hash=program.program_hash,
        step_logits=tuple(logits.tolist()),
        step_scores=tuple(sigmoid(logits).tolist()),
        model=model,
        checkpoint=checkpoint,
    )
