"""Runs a reward model on packed token sequences and returns the logits at the requested tokens."""

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
    """A token sequence, and the tokens at which scores are read."""

    tokens: Int[np.ndarray, " t"]
    ends: Int[np.ndarray, " s"]  # indices into ``tokens``, usually of the last token of each step


@dataclass(frozen=True)
class ProgramReading:
    """A program, and its token sequence with the problem's prompt."""

    program: Program
    reading: Reading


@functools.partial(jax.jit, static_argnums=0)
def _token_logits(
    model: DecoderConfig, params: Params, tokens: Array, positions: Array, reach: Array, blocks: Array | None
) -> Float[Array, "B T"]:
    """The logit of every token. Compiled once per shape for all models of one architecture, such as a run's arms."""
    everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return step_logits(model, params, tokens, positions, None, everywhere, reach=reach, blocks=blocks)


class Scorer:
    """Scores token sequences with a reward model.

    Attributes:
      counts: ``tokens`` of all sequences; ``tokens computed``, which counts shared tokens once; ``padding`` tokens;
        ``batches``.
      shapes: shapes of the batches so far. Each is compiled once.
    """

    def __init__(
        self,
        model: DecoderConfig,
        mesh: jax.sharding.Mesh,
        params: Params,
        row_tokens: int = 8192,
        batch_tokens: int = 16384,
    ) -> None:
        """Prepares the model. Compilation happens when the first batch is scored.

        Args:
          model: architecture and numerics of the model.
          mesh: the mesh on which ``params`` are.
          params: all parameters, with LoRA adapters next to their kernels.
          row_tokens: tokens per row, rounded up by ``row_length``.
          batch_tokens: tokens per batch, over all devices.
        """
        kind = "chunked" if model.attention == "einsum" else model.attention  # never materializes all attention scores
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
        """The logits at ``ends`` of each sequence, as float64, in the order of the sequences.

        Args:
          readings: sequences of at least one token each.
          progress: called after each batch with the number of its sequences.
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
                if len(waiting) > 1:  # the devices compute a batch while the host reads the previous one
                    collect()
            while waiting:
                collect()
        return results

    def _pack(self, sequences: Sequence[np.ndarray], ways: int) -> list[Packed]:
        """Packs with or without shared prefixes, whichever costs less on this platform according to ``work``."""
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
    """Whether every logit of a sequence is finite."""
    return bool(np.isfinite(logits).all())


def score_row(program: Program, logits: Float[np.ndarray, " s"], model: str, checkpoint: str) -> Score:
    """The Score row of a program's step logits.

    Raises:
      DataError: if a logit is not finite.
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
