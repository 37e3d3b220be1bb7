"""Blockwise attention that carries a primal and a tangent: forward mode without a T x T matrix in memory.

With scores s = q k^T / sqrt(H), weights p = softmax(s) and o = p v, the tangent of the output is

    do = (p * ds) v + p dv - r o,    ds = (dq k^T + q dk^T) / sqrt(H),    r = sum(p * ds) over the keys

so one pass over the keys is sufficient. In addition to the maximum, the normalizer and the accumulator of flash
attention (arXiv 2205.14135) it keeps the sum r and a second accumulator. Memory is O(T); the arithmetic is three times
that of the primal.

The same kernel body serves TPUs (Mosaic: keys and values of a head in VMEM) and GPUs (Triton: read block by block).
``reach`` (``models/attention.py``) determines which keys a query reads, and covers packed segments, shared prefixes and
prefix trees. Key blocks after the diagonal and before the first one that a query block reads are skipped.

Axis legend: B batch, T tokens, N query heads, K key/value heads, H head width, Q query rows of a block.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite: a masked block adds exp(0) to a row without a key so far; the first key scales that by 0


@dataclass(frozen=True)
class Target:
    """How the kernel is compiled.

    Attributes:
      backend: ``tpu`` or ``gpu``.
      block: the maximal numbers of query rows and of keys in a block.
      interpret: run the kernel's body as plain jax operations, on any device (for tests).
    """

    backend: str
    block: tuple[int, int]
    interpret: bool = False

    def blocks(self, length: int) -> tuple[int, int] | None:
        """Query rows and keys of a block for rows of ``length`` tokens; None if no block size divides the length."""
        rows, keys = (next((size for size in _halves(most) if length % size == 0), 0) for most in self.block)
        return (rows, keys) if rows and keys else None


TARGETS = {"tpu": Target("tpu", (512, 512)), "gpu": Target("gpu", (64, 32))}
VMEM_LIMIT = 100 << 20  # bytes; a v5p core has 128 MiB


def _halves(size: int) -> list[int]:
    """``size``, a half, a quarter and so on, down to the smallest block of a matrix unit."""
    return [size >> shift for shift in range(8) if size >> shift >= 16]


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def dual_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    reach: Int[Array, "B T"],
    target: Target,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention with a forward-mode derivative, and no reverse mode.

    Args:
      query: queries of any floating dtype; scores and sums are in float32.
      key: keys of the same dtype.
      value: values of the same dtype.
      reach: key k is read by the queries k, ..., reach[k] - 1. At least k + 1.
      target: how to compile the kernel.
      scale: scale of the scores; 1 / sqrt(H) by default.
    """
    return _run(target, scale, reach, (query, key, value), None)[0]


@dual_attention.defjvp
def _tangent(
    target: Target, scale: float | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    query, key, value, reach = primals
    out, tangent = _run(target, scale, reach, (query, key, value), tangents[:3])
    return out, tangent


def _run(
    target: Target,
    scale: float | None,
    reach: Array,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, ...] | None,
) -> tuple[Array, ...]:
    """(output,) or (output, its tangent): the kernel on a grid of batch, query heads and query blocks."""
    batch, length, heads, width = primals[0].shape
    group = heads // primals[1].shape[2]
    blocks = target.blocks(length)
    assert blocks is not None, f"rows of {length} tokens"  # the caller uses another form of attention for these
    rows, keys = blocks
    # The first key block that a query block reads is the first one that reaches beyond the block's first row.
    furthest = jnp.max(reach.reshape(batch, 1, length // keys, keys), axis=-1)
    first = jnp.argmax(furthest > jnp.arange(0, length, rows)[None, :, None], axis=-1).astype(jnp.int32)
    operands = [jnp.swapaxes(x, 1, 2) for x in primals + (tangents or ())]  # [B, heads, T, H]

    query_spec = pl.BlockSpec((None, None, rows, width), lambda b, n, i: (b, n, i, 0))
    key_spec = pl.BlockSpec((None, None, length, width), lambda b, n, i: (b, jax.lax.div(n, group), 0, 0))
    first_spec: pl.BlockSpec = pl.BlockSpec((None, None, length // rows), lambda b, n, i: (b, 0, 0))
    if target.backend == "tpu":
        first_spec = pl.BlockSpec((None, None, length // rows), lambda b, n, i: (b, 0, 0), memory_space=pltpu.SMEM)
    reach_spec = pl.BlockSpec((None, 1, length), lambda b, n, i: (b, 0, 0))
    count = 2 if tangents else 1
    products = 2 * 3 ** (count - 1)  # matrix products of a block, each of 2 * rows * keys * width
    flops = products * batch * heads * length * (length + rows) * width
    outputs = pl.pallas_call(
        functools.partial(_kernel, keys=keys, scale=scale or width**-0.5, dual=count == 2),
        grid=(batch, heads, length // rows),
        in_specs=[first_spec, reach_spec, *[query_spec, key_spec, key_spec] * count],
        out_specs=[query_spec] * count,
        out_shape=[jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype)] * count,
        interpret=target.interpret,
        name="dual_attention" if tangents else "forward_attention",
        cost_estimate=pl.CostEstimate(
            flops=flops,
            transcendentals=batch * heads * length * (length + rows) // 2,
            bytes_accessed=2 * count * (2 * operands[0].size + 2 * operands[1].size),
        ),
        compiler_params=_compiler_params(target),
    )(first[:, None], reach[:, None], *operands)
    return tuple(jnp.swapaxes(out, 1, 2) for out in outputs)


def _compiler_params(target: Target) -> Any:
    if target.backend == "tpu":
        return pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        )
    return triton.CompilerParams(num_warps=4, num_stages=2)


def _kernel(first_ref: Any, reach_ref: Any, *refs: Any, keys: int, scale: float, dual: bool) -> None:
    """Computes one block of query rows of one head, over the key blocks that it reads."""
    inputs, outputs = refs[: 6 if dual else 3], refs[6 if dual else 3 :]
    q_ref, k_ref, v_ref = inputs[:3]
    rows, width = q_ref.shape
    block = pl.program_id(2)
    start = block * rows
    q = q_ref[...]
    dq = inputs[3][...] if dual else q
    row = start + jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 1)

    def product(a: Array, b: Array, axis: int) -> Array:
        """a[rows, n] b[n, m], or with ``axis=1`` a[rows, n] b[m, n]^T; in float32."""
        return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)

    def body(j: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        at = pl.ds(pl.multiple_of(j * keys, keys), keys)
        k, v = k_ref[at, :], v_ref[at, :]
        mask = (column + j * keys <= row) & (row < reach_ref[:, at])
        s = jnp.where(mask, product(q, k, 1) * scale, MASKED)
        top, total, out = carry[:3]
        highest = jnp.maximum(top, jnp.max(s, axis=1, keepdims=True))
        p = jnp.exp(s - highest)
        shrink = jnp.exp(top - highest)
        total = total * shrink + jnp.sum(p, axis=1, keepdims=True)
        out = out * shrink + product(p.astype(v.dtype), v, 0)
        if not dual:
            return highest, total, out
        dk, dv = inputs[4][at, :], inputs[5][at, :]
        slope, dout = carry[3:]
        pds = p * ((product(dq, k, 1) + product(q, dk, 1)) * scale)
        slope = slope * shrink + jnp.sum(pds, axis=1, keepdims=True)
        dout = dout * shrink + product(pds.astype(v.dtype), v, 0) + product(p.astype(v.dtype), dv, 0)
        return highest, total, out, slope, dout

    column_of = functools.partial(jnp.full, (rows, 1), dtype=jnp.float32)
    carry: tuple[Array, ...] = (column_of(MASKED), column_of(0.0), jnp.zeros((rows, width), jnp.float32))
    if dual:
        carry = (*carry, column_of(0.0), jnp.zeros((rows, width), jnp.float32))
    end = jax.lax.div(start + rows + keys - 1, keys)  # the block on the diagonal is the last one
    found = jax.lax.fori_loop(first_ref[block], end, body, carry)
    total = found[1]
    out = found[2] / total
    outputs[0][...] = out.astype(outputs[0].dtype)
    if dual:
        outputs[1][...] = ((found[4] - found[3] * out) / total).astype(outputs[1].dtype)
