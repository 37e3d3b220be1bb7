"""Low-rank adapters as plain leaves of the parameter pytree (arXiv 2106.09685).

A projection with an adapter holds, beside ``kernel`` [L in... out...], ``lora_a`` [L in... R] and ``lora_b``
[L R out...]; the decoder adds (alpha / rank) (x A) B. Everything here is a pure function on such trees.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamprm_jax.bilevel.partition import partition
from dreamprm_jax.config import LoraConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import Params

ADAPTER = ("lora_a", "lora_b")
Part = Literal["all", "trainable", "frozen"]


def is_adapter(path: tuple[str, ...], leaf: Any = None) -> bool:
    """Whether a parameter is an adapter's A or B."""
    return path[-1] in ADAPTER


def is_trainable(path: tuple[str, ...], leaf: Any = None) -> bool:
    """Whether LoRA training updates a parameter: an adapter, or part of the reward head."""
    return is_adapter(path) or path[0] == "head"


def split_trainable(config: DecoderConfig, tree: Any) -> tuple[Any, Any]:
    """The (trainable, frozen) parts of a tree like the parameters. Each has None in place of the other's leaves.

    With LoRA only the adapters and the head are trainable, otherwise everything is. ``bilevel.partition.merge`` joins
    the parts again.
    """
    return partition(tree, is_trainable if config.lora is not None else lambda path, leaf: True)


def take_part(config: DecoderConfig, tree: Any, part: Part) -> Any:
    """One part of ``split_trainable``, or the whole tree."""
    return tree if part == "all" else split_trainable(config, tree)[part == "frozen"]


def kernel_update(
    a: Float[Array, "L *inputs R"], b: Float[Array, "L R *outputs"], lora: LoraConfig
) -> Float[Array, " L *inputs *outputs"]:
    """(alpha / rank) A B, layer by layer, in float32."""
    layers, rank = a.shape[0], a.shape[-1]
    product = jnp.einsum("lir,lro->lio", a.reshape(layers, -1, rank), b.reshape(layers, rank, -1))
    return lora.scale * product.reshape(layers, *a.shape[1:-1], *b.shape[2:])


def split_adapters(params: Params) -> tuple[Params, Params]:
    """Splits parameters into (all others, adapters)."""
    leaves = flax.traverse_util.flatten_dict(params)
    rest = {path: leaf for path, leaf in leaves.items() if not is_adapter(path)}
    adapters = {path: leaf for path, leaf in leaves.items() if is_adapter(path)}
    return flax.traverse_util.unflatten_dict(rest), flax.traverse_util.unflatten_dict(adapters)


def merge_adapters(params: Params, lora: LoraConfig) -> Params:
    """Adds every adapter to its kernel and removes it. Returns the parameters of the same model with ``lora=None``."""
    rest, adapters = split_adapters(params)
    leaves, parts = flax.traverse_util.flatten_dict(rest), flax.traverse_util.flatten_dict(adapters)
    for path, a in parts.items():
        if path[-1] == "lora_a":
            target = (*path[:-1], "kernel")
            update = kernel_update(a, parts[*path[:-1], "lora_b"], lora)
            leaves[target] = (leaves[target].astype(jnp.float32) + update).astype(leaves[target].dtype)
    return flax.traverse_util.unflatten_dict(leaves)
