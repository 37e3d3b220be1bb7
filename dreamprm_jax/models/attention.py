"""Masked grouped-query attention in four forms that give the same numbers.

Axis legend (shared by the whole device half): B batch, T tokens, S steps, N query heads, K key/value heads,
G = N / K query heads a key/value head, H head width, D model width, F mlp width, V vocabulary, L layers, R LoRA rank.
The key axis of a score matrix, as long as T, is written U.

Which token sees which is one rule for all four (``visible``): causal, within the same segment, and within the same
branch or the branch 0 that the segment's branches share. Segments are packed sequences; branches are the shared-prefix
layout, in which one prompt (branch 0) stands once before many programs (branches 1, 2, ...). A row of prefix trees
(``scoring/packing.py``), laid out depth first, needs one number a token instead, its reach: where its subtree ends.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dreamprm_jax.schema import DataError

MASKED = -1e30  # finite, so that no row and no tangent is ever NaN


class Layout(NamedTuple):
    """Which tokens may see each other. ``None``: one sequence a row, padded on the right."""

    segments: Int[Array, "B T"] | None = None  # 0 = padding
    branches: Int[Array, "B T"] | None = None  # 0 = the segment's shared prefix
    reach: Int[Array, "B T"] | None = None  # the first later place of the row that may not read the token
    blocks: Int[Array, "B C M"] | None = None  # with reach: the M blocks of T / C tokens that each block's queries read


def _same_segment(layout: Layout, start: Int[Array, ""] | int, count: int, visible: Array) -> Array:
    for ids, shared in ((layout.segments, False), (layout.branches, True)):
        if ids is None:
            continue
        queries = jax.lax.dynamic_slice_in_dim(ids, start, count, axis=1)
        same = queries[:, :, None] == ids[:, None, :]
        visible = visible & (same | (ids == 0)[:, None, :] if shared else same)
    return visible


def visible(layout: Layout, length: int, start: Int[Array, ""] | int = 0, count: int = 0) -> Bool[Array, "B1 Tq U"]:
    """The mask of ``count`` query rows from ``start`` (all of them by default).

    A padding token (segment 0) sees the padding before it, so every row keeps at least its own diagonal.

    Args:
      layout: segment and branch ids.
      length: T.
      start: first query row, may be traced.
      count: number of query rows; 0 takes all ``length``.

    Returns:
      True where the query may read the key; the batch axis has length 1 where the layout has no ids.
    """
    count = count or length
    rows = start + jnp.arange(count)
    causal = rows[:, None] >= jnp.arange(length)[None, :]
    if layout.reach is not None:
        return causal & (rows[:, None] < layout.reach[:, None, :])
    return _same_segment(layout, start, count, causal[None])


def _grouped(
    query: Float[Array, "B Tq N H"],
    key: Float[Array, "B U K H"],
    value: Float[Array, "B U K H"],
    mask: Bool[Array, "B1 Tq U"],
) -> Float[Array, "B Tq N H"]:
    batch, rows, heads, width = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, rows, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum("btkgh,bukh->bkgtu", grouped, key, preferred_element_type=jnp.float32) * width**-0.5
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgtu,bukh->btkgh", weights, value).reshape(batch, rows, heads, width)


def einsum_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"], layout: Layout
) -> Float[Array, "B T N H"]:
    """The whole T x T score matrix at once. Differentiable in both modes."""
    return _grouped(query, key, value, visible(layout, query.shape[1]))


def chunked_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    layout: Layout,
    chunk: int,
) -> Float[Array, "B T N H"]:
    """``chunk`` query rows at a time under ``lax.scan``: memory T x chunk. Differentiable in both modes.

    Each chunk is recomputed in the backward pass, so no score matrix outlives its chunk.
    """
    length = query.shape[1]
    if length <= chunk:
        return einsum_attention(query, key, value, layout)
    count = -(-length // chunk)
    padding = count * chunk - length
    # Queries past the end read like a continuation of the last ids; their rows are cut off again below.
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    chunks = jnp.moveaxis(query.reshape(query.shape[0], count, chunk, *query.shape[2:]), 1, 0)
    ids = Layout(*(None if i is None else jnp.pad(i, ((0, 0), (0, padding)), mode="edge") for i in layout))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(rows: Array, start: Array) -> Array:
        mask = visible(ids, count * chunk, start, chunk)[:, :, :length]
        return _grouped(rows, key, value, mask)

    def body(_: None, inputs: tuple[Array, Array]) -> tuple[None, Array]:
        return None, one(*inputs)

    _, outputs = jax.lax.scan(body, None, (chunks, jnp.arange(count) * chunk))
    return jnp.moveaxis(outputs, 0, 1).reshape(query.shape)[:, :length]


def block_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"], layout: Layout
) -> Float[Array, "B T N H"]:
    """Each block's queries against the keys of its listed blocks alone, under the mask of ``layout.reach``.

    Blocks that are not listed must hold nothing that the queries may see. Differentiable in both modes.
    """
    listing, reach = layout.blocks, layout.reach
    assert listing is not None
    assert reach is not None
    batch, length = query.shape[:2]
    count, listed = listing.shape[1:]
    size = length // count

    def read(keys: Array) -> Array:
        blocks = keys.reshape(batch, count, size, *keys.shape[2:])
        index = listing.reshape(batch, count * listed, *(1,) * (blocks.ndim - 2))
        chosen = jnp.take_along_axis(blocks, index, axis=1, mode="clip")
        return chosen.reshape(batch * count, listed * size, *keys.shape[2:])

    places = (listing[..., None] * size + jnp.arange(size)).reshape(batch * count, 1, listed * size)
    rows = jnp.tile(jnp.arange(length).reshape(count, size), (batch, 1))[:, :, None]
    mask = (places <= rows) & (rows < read(reach)[:, None, :])
    split = query.reshape(batch * count, size, *query.shape[2:])
    return _grouped(split, read(key), read(value), mask).reshape(query.shape)


def fused_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"], layout: Layout
) -> Float[Array, "B T N H"]:
    """cuDNN's flash attention, on NVIDIA GPUs, in bfloat16 or float16. Reverse mode only.

    A row that holds one sequence needs no mask beyond the causal one, and then the kernel skips the upper triangle; ids
    cost a mask of B x T x T.

    Raises:
      DataError: in float32, or without cuDNN.
    """
    if query.dtype == jnp.float32:
        raise DataError("model.attention='cudnn' computes in bfloat16: set model.dtype to 'bfloat16'")
    mask = None
    if any(ids is not None for ids in layout):
        mask = visible(layout, query.shape[1])[:, None]
    try:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=mask is None, implementation="cudnn"
        )
    except RuntimeError as error:  # no cuDNN, or one too old
        raise DataError(f"model.attention='cudnn' needs an NVIDIA GPU with cuDNN ({error}); set 'chunked'") from error


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    layout: Layout,
    kind: str,
    chunk: int,
) -> Float[Array, "B T N H"]:
    """Attention of the configured kind: ``einsum``, ``chunked`` or ``cudnn``; by blocks where the layout lists them."""
    chex.assert_equal_shape([key, value])
    chex.assert_equal_shape_prefix([query, key], 2)
    if layout.blocks is not None:
        return block_attention(query, key, value, layout)
    if kind == "einsum":
        return einsum_attention(query, key, value, layout)
    if kind == "chunked":
        return chunked_attention(query, key, value, layout, chunk)
    return fused_attention(query, key, value, layout)
