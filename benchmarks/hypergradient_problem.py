"""The problem that benchmarks/hypergradient.py measures on: a small decoder, sequences, labels of which some are wrong.

The decoder is written once for JAX and torch (``xp`` is ``jax.numpy`` or ``torch``), so that peers in torch see the
same function of the same weights. T tokens, D width, H heads, L layers, V vocabulary, R LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Size:
    """Of the decoder and its data."""

    layers: int = 4
    width: int = 96
    heads: int = 4
    vocabulary: int = 64
    tokens: int = 48
    rank: int = 8
    batch: int = 16
    examples: int = 640
    flipped: float = 0.3


def initial_params(size: Size, seed: int = 0) -> dict[str, Any]:
    """Weights as numpy float32; LoRA's B starts at zero."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32)

    stack = (size.layers, size.width)
    return {
        "embedding": rng.normal(size=(size.vocabulary, size.width)).astype(np.float32),
        "position": 0.1 * rng.normal(size=(size.tokens, size.width)).astype(np.float32),
        "qkv": normal(*stack, 3 * size.width),
        "out": normal(*stack, size.width),
        "gate": normal(*stack, 3 * size.width),
        "up": normal(*stack, 3 * size.width),
        "down": normal(size.layers, 3 * size.width, size.width),
        "lora_a": normal(*stack, size.rank),
        "lora_b": np.zeros((size.layers, size.rank, 3 * size.width), np.float32),
        "head": 0.1 * rng.normal(size=size.width).astype(np.float32),
    }


def is_lora(path: tuple[str, ...], leaf: Any) -> bool:
    """What LoRA training leaves free."""
    return path[0].startswith("lora") or path[0] == "head"


def is_base(path: tuple[str, ...], leaf: Any) -> bool:
    """What full training leaves free: everything but the LoRA pair."""
    return not path[0].startswith("lora")


def logits(xp: Any, params: dict[str, Any], tokens: Any, heads: int) -> Any:
    """[B, T] tokens -> [B], read at the last token of a causal decoder."""
    hidden = params["embedding"][tokens] + params["position"][None]
    count, length, width = hidden.shape
    visible = xp.tril(xp.ones((length, length)))
    for layer in range(params["qkv"].shape[0]):
        normed = _rms_norm(xp, hidden)
        qkv = normed @ params["qkv"][layer]
        if "lora_a" in params:
            qkv = qkv + (normed @ params["lora_a"][layer]) @ params["lora_b"][layer]
        query, key, value = (
            qkv[..., part * width : (part + 1) * width].reshape(count, length, heads, width // heads)
            for part in range(3)
        )
        scores = xp.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
        weights = xp.exp(xp.clip(scores, -30.0, 30.0)) * visible
        weights = weights / weights.sum(-1)[..., None]
        mixed = xp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(count, length, width)
        hidden = hidden + mixed @ params["out"][layer]
        normed = _rms_norm(xp, hidden)
        gate = normed @ params["gate"][layer]
        hidden = hidden + (gate / (1 + xp.exp(-gate)) * (normed @ params["up"][layer])) @ params["down"][layer]
    return _rms_norm(xp, hidden)[:, -1] @ params["head"]


def binary_cross_entropy(xp: Any, logits: Any, targets: Any) -> Any:
    """Mean over the batch; targets in [0, 1]."""
    return (xp.logaddexp(logits, xp.zeros_like(logits)) - logits * targets).mean()


def _rms_norm(xp: Any, hidden: Any) -> Any:
    return hidden / xp.sqrt((hidden**2).mean(-1)[..., None] + 1e-6)


@dataclass(frozen=True)
class Examples:
    """Sequences, true labels, and the labels that training sees."""

    tokens: np.ndarray  # int32[n, T]
    truth: np.ndarray  # float32[n]
    noisy: np.ndarray  # float32[n]

    @property
    def flipped(self) -> np.ndarray:
        """bool[n]"""
        return self.truth != self.noisy


def examples(size: Size, count: int, flipped: float, seed: int) -> Examples:
    """Truth: whether the last token is in the lower half of the vocabulary."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, size.vocabulary, (count, size.tokens)).astype(np.int32)
    truth = (tokens[:, -1] < size.vocabulary // 2).astype(np.float32)
    noisy = np.where(rng.random(count) < flipped, 1 - truth, truth).astype(np.float32)
    return Examples(tokens, truth, noisy)
