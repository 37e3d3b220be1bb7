"""The process reward model: a decoder and a scalar head that reads the last token of every step.

All functions are pure functions of a parameter pytree::

    {"decoder": {"embedding", "layers": {...}, "final_norm"}, "head": {"kernel", "bias"}}

Axis legend: B batch, T tokens, S steps, D model width (``models/decoder.py`` has the rest).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dreamprm_jax.models.attention import Layout
from dreamprm_jax.models.decoder import Decoder, DecoderConfig, parameter

Params = Any  # nested dict of arrays


class RewardHead(nn.Module):
    """One logit from a hidden state: linear, or one hidden layer (``config.head_hidden``) before it. In float32."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, hidden: Float[Array, "*lead D"]) -> Float[Array, "*lead"]:
        config, dtype = self.config, "float32"  # the head is always trained, whatever the dtype of a frozen decoder
        zeros = nn.initializers.zeros_init()
        x, axis = hidden.astype(jnp.float32), "embed"
        if width := config.head_hidden:
            init = nn.initializers.lecun_normal()
            kernel = parameter(self, "hidden_kernel", init, ("embed", "head_hidden"), (x.shape[-1], width), dtype)
            bias = parameter(self, "hidden_bias", zeros, ("head_hidden",), (width,), dtype)
            x, axis = getattr(nn, config.head_activation)(x @ kernel + bias), "head_hidden"
        # Small, so that training starts from scores near one half.
        kernel = parameter(self, "kernel", nn.initializers.normal(0.02), (axis,), x.shape[-1:], dtype)
        bias = parameter(self, "bias", zeros, (), (), dtype)
        return x @ kernel + bias


class RewardModel(nn.Module):
    """Decoder and head as one module; ``step_logits`` is the function to call."""

    config: DecoderConfig

    def setup(self) -> None:
        self.decoder = Decoder(self.config)
        self.head = RewardHead(self.config)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        step_index: Int[Array, "B S"],
        layout: Layout = Layout(),  # noqa: B008
        deterministic: bool = True,
    ) -> Float[Array, "B S"]:
        hidden = self.decoder(tokens, positions, layout, deterministic)
        return self.head(jnp.take_along_axis(hidden, step_index[:, :, None], axis=1, mode="clip"))

    def hidden(self, tokens: Array, positions: Array, layout: Layout) -> Float[Array, "B T D"]:
        """The decoder's hidden states."""
        return self.decoder(tokens, positions, layout)


def _boxed_init(config: DecoderConfig, rng: Array) -> Any:
    tokens = jnp.zeros((1, 2), jnp.int32)
    config = dataclasses.replace(config, attention="einsum")  # a fused kernel needs its device and certain lengths
    return RewardModel(config).init(rng, tokens, tokens, tokens[:, :1])["params"]


def init_params(config: DecoderConfig, rng: Array) -> Params:
    """Random parameters as plain arrays. Call it under ``jit(out_shardings=...)`` to create them sharded."""
    return nn.unbox(_boxed_init(config, rng))


@functools.lru_cache(maxsize=8)
def _abstract_boxed(config: DecoderConfig) -> Any:
    return jax.eval_shape(lambda: _boxed_init(config, jax.random.key(0)))


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes and dtypes of ``init_params``, without allocating arrays."""
    return jax.eval_shape(nn.unbox, _abstract_boxed(config))  # traced: under a mesh, unbox constrains shardings


def logical_specs(config: DecoderConfig) -> Any:
    """A pytree like that of ``init_params``, with a PartitionSpec of logical axis names for every leaf."""
    return nn.get_partition_spec(_abstract_boxed(config))


def step_logits(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"] | None,
    step_index: Int[Array, "B S"],
    *,
    branches: Int[Array, "B T"] | None = None,
    reach: Int[Array, "B T"] | None = None,
    blocks: Int[Array, "B C M"] | None = None,
    dropout_key: Array | None = None,
) -> Float[Array, "B S"]:
    """The reward logit of every step, all steps of a row in one pass.

    Args:
      config: shape and numerics of the model.
      params: pytree of ``init_params``.
      tokens: token ids.
      positions: rotary positions, restarting at every packed sequence.
      segments: packed sequence of each token, 0 for padding; None for one right-padded sequence per row.
      step_index: index of each step's last token in the row. Unused slots may hold any index of the row, such as 0; the
        caller must mask their logits.
      branches: 0 for a shared prefix, 1, 2, ... for the programs after it (``models/attention.py``).
      reach: rows of prefix trees, with ``segments`` and ``branches`` None (``scoring/packing.py``).
      blocks: with ``reach``, which blocks of a row each block attends to (``models/attention.py``).
      dropout_key: enables LoRA dropout; the same key gives the same mask. None: no dropout.

    Returns:
      Logits in float32; the score of a step is their sigmoid.
    """
    chex.assert_rank(step_index, 2)
    chex.assert_equal_shape_prefix([tokens, step_index], 1)
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    inputs = (tokens, positions, step_index, Layout(segments, branches, reach, blocks), dropout_key is None)
    logits = cast(Array, RewardModel(config).apply({"params": params}, *inputs, rngs=rngs))
    chex.assert_equal_shape([logits, step_index])
    chex.assert_type(logits, jnp.float32)
    return logits


def hidden_states(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"] | None = None,
    *,
    branches: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T D"]:
    """The decoder's normalized hidden states, before any head."""
    inputs = (tokens, positions, Layout(segments, branches))
    return cast(Array, RewardModel(config).apply({"params": params}, *inputs, method="hidden"))
