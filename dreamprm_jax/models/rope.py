"""Rotary frequencies, plain or scaled as in Hugging Face's types linear, dynamic, yarn and llama3.

Every type is one vector of frequencies and one factor on the rotation, which are computed once on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# The required and the optional numbers of each type.
ROPE_TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
}


@dataclass(frozen=True)
class RopeScaling:
    """A scaling of the rotary frequencies, with the field names of Hugging Face's config."""

    kind: str  # a key of ROPE_TYPES
    values: tuple[tuple[str, float], ...]


def rope_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[Float[np.ndarray, " half"], float]:
    """The angle per position of each rotary pair, float32, and the factor on cosine and sine.

    The dynamic type changes the frequencies only beyond the training context. ``hf_config.read_config`` limits the
    model to that context, so the dynamic type equals the plain one here.

    Args:
      head_dim: width of a head, H.
      theta: base of the frequencies.
      scaling: scaling of the frequencies; None: plain.

    References:
      yarn: arXiv 2309.00071; llama3: arXiv 2407.21783. The formulas are those of transformers' modeling_rope_utils.
    """
    plain = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    factor = 1.0
    if scaling is None or scaling.kind == "dynamic":
        frequencies = plain
    elif scaling.kind == "linear":
        frequencies = plain / dict(scaling.values)["factor"]
    elif scaling.kind == "yarn":
        frequencies, factor = _yarn(plain, head_dim, theta, dict(scaling.values))
    else:
        frequencies = _llama3(plain, dict(scaling.values))
    return frequencies.astype(np.float32), factor


def _llama3(plain: np.ndarray, values: dict[str, float]) -> np.ndarray:
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    turns = values["original_max_position_embeddings"] * plain / (2 * np.pi)  # over the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * plain / values["factor"] + smooth * plain


def _yarn(plain: np.ndarray, width: int, theta: float, values: dict[str, float]) -> tuple[np.ndarray, float]:
    scale, original = values["factor"], values["original_max_position_embeddings"]

    def magnitude(weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    def dimension(turns: float) -> float:
        """The (fractional) pair index whose frequency makes ``turns`` rotations over the original context."""
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    factor = values.get("attention_factor")
    if factor is None:
        all_dimensions = values.get("mscale_all_dim")
        one = values.get("mscale")
        factor = magnitude(one) / magnitude(all_dimensions) if one and all_dimensions else magnitude()
    low, high = dimension(values.get("beta_fast") or 32), dimension(values.get("beta_slow") or 1)
    if values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / ((high - low) or 0.001), 0.0, 1.0)
    return plain / scale * ramp + plain * (1 - ramp), factor
