"""The mapping between the tensors of a Hugging Face checkpoint and the parameters of the decoder.

Hugging Face stores a linear map as [out, in] with flattened heads, and one tensor per layer. Here it is [in..., out...]
with a leading layer axis. A rectangular slice of a parameter is a rectangular slice of each stored tensor, so a shard
can be read without the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamprm_jax.models.decoder import DecoderConfig

Path = tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """One parameter and its tensors in a checkpoint."""

    path: Path  # in the parameter pytree
    name: str  # in the checkpoint; {} stands for the layer number
    shape: tuple[int, ...]  # shape of the parameter without the layer axis
    inputs: int = 0  # number of leading axes that are inputs of a linear map; 0: a vector or an embedding
    layers: int = 0  # length of the layer axis; 0: not stacked

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the checkpoint (of each tensor, if there is one per layer)."""
        if self.inputs:
            return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])
        return self.shape if self.path[-1] == "embedding" else (math.prod(self.shape),)

    def names(self) -> list[str]:
        """The names of the tensors in the checkpoint, in layer order."""
        return [self.name.format(layer) for layer in range(self.layers)] if self.layers else [self.name]

    def read(self, index: Sequence[slice], source: Callable[[str], Any]) -> np.ndarray:
        """Reads a rectangular slice of the parameter.

        Args:
          index: one slice per axis of the parameter, including the layer axis, if any, which comes first.
          source: maps a tensor name to an object that can be sliced like an array of ``stored_shape``.

        Returns:
          The slice, in the checkpoint's dtype.
        """
        own = index[1:] if self.layers else index
        local = [len(range(*s.indices(size))) for s, size in zip(own, self.shape, strict=True)]
        cut: tuple[slice, ...]
        if self.inputs:
            cut = tuple(_flat(own[g], self.shape[g]) for g in (slice(self.inputs, None), slice(self.inputs)))
        else:
            cut = tuple(own) if self.path[-1] == "embedding" else (_flat(own, self.shape),)
        form = (*local[self.inputs :], *local[: self.inputs])  # in the file, the outputs come first
        outputs = len(form) - self.inputs
        order = (*range(outputs, len(form)), *range(outputs))
        names = self.names()[index[0]] if self.layers else self.names()
        parts = [source(name)[cut].reshape(form).transpose(order) for name in names]
        return np.stack(parts) if self.layers else parts[0]

    def write(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors to store for the parameter ``value``, by name."""
        values = value if self.layers else value[None]
        order = (*range(self.inputs, len(self.shape)), *range(self.inputs))
        return {
            name: np.ascontiguousarray(part.transpose(order).reshape(self.stored_shape))
            for name, part in zip(self.names(), values, strict=True)
        }


def _flat(index: Sequence[slice], shape: Sequence[int]) -> slice:
    """Converts a slice of the first axis to a slice of the flattened axes. The other axes must not be cut."""
    if not shape:
        return slice(0, 1)
    first, rest = range(*index[0].indices(shape[0])), math.prod(shape[1:])
    if any(len(range(*s.indices(size))) != size for s, size in zip(index[1:], shape[1:], strict=True)):
        raise ValueError(
            f"a part of {tuple(shape)} cut along an inner axis ({index}) is no rectangle of the checkpoint"
        )
    return slice(first.start * rest, first.stop * rest)


def tensor_table(config: DecoderConfig) -> list[Tensor]:
    """The parameters of the decoder. LoRA's parameters are not listed, because a checkpoint has no tensors for them."""
    d, f, width, count = config.hidden_size, config.intermediate_size, config.head_dim, config.num_layers
    heads, kv_heads = (config.num_heads, width), (config.num_kv_heads, width)
    table = [
        Tensor(("decoder", "embedding"), "model.embed_tokens.weight", (config.vocab_size, d)),
        Tensor(("decoder", "final_norm", "scale"), "model.norm.weight", (d,)),
    ]

    def layer(path: Path, name: str, shape: tuple[int, ...], inputs: int = 0) -> None:
        table.append(Tensor(("decoder", "layers", *path), f"model.layers.{{}}.{name}", shape, inputs, count))

    layer(("attention_norm", "scale"), "input_layernorm.weight", (d,))
    layer(("mlp_norm", "scale"), "post_attention_layernorm.weight", (d,))
    for target, group in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        layer((target, "kernel"), f"self_attn.{target}_proj.weight", (d, *group), 1)
        if config.qkv_bias:
            layer((target, "bias"), f"self_attn.{target}_proj.bias", group)
    layer(("o", "kernel"), "self_attn.o_proj.weight", (*heads, d), 2)
    if config.output_bias:
        layer(("o", "bias"), "self_attn.o_proj.bias", (d,))
    if config.qk_norm:
        layer(("q_norm", "scale"), "self_attn.q_norm.weight", (width,))
        layer(("k_norm", "scale"), "self_attn.k_norm.weight", (width,))
    for target, shape in (("gate", (d, f)), ("up", (d, f)), ("down", (f, d))):
        layer((target, "kernel"), f"mlp.{target}_proj.weight", shape, 1)
    return table


def head_table(config: DecoderConfig) -> list[Tensor]:
    """The parameters of a linear head, as transformers' token classifiers store them."""
    return [
        Tensor(("head", "kernel"), "score.weight", (config.hidden_size,), 1),
        Tensor(("head", "bias"), "score.bias", ()),
    ]
