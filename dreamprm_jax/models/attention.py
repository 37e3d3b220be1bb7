"""Masked grouped-query attention in plain JAX: forms that run on every device and support all derivatives.

Axis legend (shared by the whole device half): B batch, T tokens, S steps, N query heads, K key/value heads,
G = N / K query heads a key/value head, H head width, D model width, F mlp width, V vocabulary, L layers, R LoRA rank.
The key axis of a score matrix, as long as T, is written U.

All forms use the same mask: a query reads the keys that are not after it and whose reach is beyond it. The reach of a
key is the first later position of its row that may not read it: the end of its packed sequence, of its branch after a
shared prefix, or of its subtree in a row of prefix trees (``scoring/packing.py``). ``Layout`` has either the reach, or
the ids from which it is computed; equal ids must be contiguous in the row. The fused kernels are in ``fused.py``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that no row and no tangent is ever NaN
PREFIXES = 4  # groups of chunks, each with its own key prefix; each group adds a loop to compile


class Layout(NamedTuple):
    """Which tokens may attend to each other. All ``None``: one sequence per row, padded on the right."""

    segments: Int[Array, "B T"] | None = None  # packed sequence of each token; 0 = padding
    branches: Int[Array, "B T"] | None = None  # within a segment: 0 = the shared prefix, which comes first
    reach: Int[Array, "B T"] | None = None  # the first later place of the row that may not read the token
    blocks: Int[Array, "B C M"] | None = None  # with reach: the M blocks of T / C tokens that each block's queries read


def _run_ends(ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The end of the run of equal ids that contains each position."""
    length = ids.shape[1]
    last = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    ends = jnp.where(last, jnp.arange(1, length + 1), length)
    return jax.lax.cummin(ends, axis=1, reverse=True)


def reach_of(layout: Layout) -> Int[Array, "B T"] | None:
    """The reach of every token; ``None`` if the mask is only causal."""
    if layout.reach is not None:
        return layout.reach
    ends = None if layout.segments is None else _run_ends(layout.segments)
    if layout.branches is None:
        return ends
    shared = layout.branches == 0
    whole = jnp.full_like(layout.branches, layout.branches.shape[1]) if ends is None else ends
    branch = _run_ends(layout.branches)
    return jnp.where(shared, whole, jnp.minimum(branch, whole))


def visible(
    reach: Int[Array, "B U"] | None, length: int, start: Int[Array, ""] | int = 0, count: int = 0
) -> Bool[Array, "B1 Tq U"]:
    """The mask of ``count`` query rows from ``start`` (all by default). Every row keeps at least its diagonal.

    Args:
      reach: reach of at least the first ``length`` keys; None: causal mask only.
      length: number of keys.
      start: first query row, may be traced.
      count: number of query rows; 0 takes all ``length``.

    Returns:
      True where the query may read the key; the batch axis has length 1 without ``reach``.
    """
    rows = (start + jnp.arange(count or length))[:, None]
    causal = (rows >= jnp.arange(length))[None]
    return causal if reach is None else causal & (rows < reach[:, None, :length])


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
    return _grouped(query, key, value, visible(reach_of(layout), query.shape[1]))


def chunked_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    layout: Layout,
    chunk: int,
) -> Float[Array, "B T N H"]:
    """``chunk`` query rows at a time under ``lax.scan``: memory T x chunk. Differentiable in both modes.

    Each chunk is recomputed in the backward pass, so no score matrix is kept beyond its chunk. The chunks form up to
    ``PREFIXES`` groups. Each group is a scan that reads only the keys before the group's end, so four groups compute
    5 / 8 of the score matrix; the rest is masked anyway.
    """
    length = query.shape[1]
    if length <= chunk:
        return einsum_attention(query, key, value, layout)
    reach, count = reach_of(layout), -(-length // chunk)
    query = jnp.pad(query, ((0, 0), (0, count * chunk - length), (0, 0), (0, 0)))
    if reach is not None:  # so that the padding rows, which are cut off below, read a key
        reach = jnp.where(reach == length, count * chunk, reach)
    chunks = jnp.moveaxis(query.reshape(query.shape[0], count, chunk, *query.shape[2:]), 1, 0)
    outputs = []
    for first, stop in _groups(count):
        end = min(stop * chunk, length)
        rows = (chunks[first:stop], jnp.arange(first, stop) * chunk)
        outputs.append(_scan_chunks(key[:, :end], value[:, :end], reach, rows))
    return jnp.moveaxis(jnp.concatenate(outputs), 0, 1).reshape(query.shape)[:, :length]


def _groups(count: int) -> list[tuple[int, int]]:
    """(first, stop) of the groups of ``count`` chunks."""
    size = -(-count // PREFIXES)
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _scan_chunks(key: Array, value: Array, reach: Array | None, rows: tuple[Array, Array]) -> Array:
    return jax.lax.scan(lambda _, each: (None, _one_chunk(key, value, reach, *each)), None, rows)[1]


@functools.partial(jax.checkpoint, prevent_cse=False)
def _one_chunk(key: Array, value: Array, reach: Array | None, rows: Array, start: Array) -> Array:
    return _grouped(rows, key, value, visible(reach, key.shape[1], start, rows.shape[1]))


def block_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"], layout: Layout
) -> Float[Array, "B T N H"]:
    """Attention of each block's queries to the keys of its listed blocks, with the mask of ``layout.reach``.

    Blocks that are not listed must not contain keys that the queries may read. Differentiable in both modes.
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
