"""The choice of the attention form, by device and by the derivatives that are taken.

| ``derivative`` | passes | TPU | GPU | elsewhere |
|---|---|---|---|---|
| ``once`` | a gradient, and the tangent pass that reuses its activations | splash | triton | chunked |
| ``forward`` | the forward-mode pass of a hypergradient with K = 1, which is never transposed | dual | dual | chunked |
| ``none`` | scoring | dual | dual | chunked |
| ``any`` | forward over reverse (K > 1, method="reverse") | chunked | chunked | chunked |

This is ``model.attention="auto"``; on CPUs it uses einsum for rows of at most ``SHORT`` tokens. Other values name the
form for gradients (einsum and chunked: for all passes). splash and triton have no forward mode: under ``once`` the
tangent of their result comes from the ``dual`` kernel (``_with_tangent``).
If a kernel does not support a row's length, a head's width or a dtype, ``chunked`` replaces it and gives the same
numbers. Kernels run on each device's own rows and heads, according to the active sharding rules.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import linear_call
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from dreamprm_jax.models.attention import Layout, block_attention, chunked_attention, einsum_attention, reach_of
from dreamprm_jax.models.kernels.dual_attention import TARGETS, Target, dual_attention
from dreamprm_jax.schema import DataError

Derivative = Literal["any", "once", "forward", "none"]
Kernel = Callable[[Array, Array, Array, Array], Array]  # query, key, value, reach of one device
# Names of the values that a backward pass reads, for rematerialization policies: the kernel's results, and query, key
# and value in the layout of the attention form.
SAVED, INPUTS = "attention", "attention_inputs"

AUTO: dict[tuple[str, Derivative], str] = {
    ("tpu", "once"): "splash",
    ("tpu", "forward"): "dual",
    ("tpu", "none"): "dual",
    ("gpu", "once"): "triton",
    ("gpu", "forward"): "dual",
    ("gpu", "none"): "dual",
}
PLAIN = ("einsum", "chunked")
SHORT = 384  # tokens of a row up to which chunks save little time on a CPU but take time to compile
CPU_CHUNKS = 8  # the least number of chunks of longer rows on a CPU, so that their scores stay in its cache


def taking(model: Any, derivative: Derivative) -> Any:
    """The ``DecoderConfig`` for a pass of which these derivatives are taken."""
    return dataclasses.replace(model, derivative=derivative)


def platform() -> str:
    """``cpu``, ``gpu`` or ``tpu``: that of the active mesh, which may be a compilation target, or of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else str(device.platform)
    return "gpu" if name in ("cuda", "rocm") else name


def choose(kind: str, derivative: Derivative, device: str) -> str:
    """The form that ``model.attention=kind`` selects for these derivatives on this device."""
    if kind in PLAIN:
        return kind
    if kind == "auto" or derivative != "once":
        return AUTO.get((device, derivative), "chunked")
    return kind


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    layout: Layout,
    kind: str,
    chunk: int,
    derivative: Derivative = "any",
) -> Float[Array, "B T N H"]:
    """Grouped-query attention under ``layout``.

    Args:
      query: queries in the model's dtype.
      key: keys of the same dtype.
      value: values of the same dtype.
      layout: which tokens attend to each other.
      kind: ``model.attention``.
      chunk: query rows per chunk, for the form ``chunked``.
      derivative: which derivatives are taken; ``any`` if this is not known.

    Raises:
      DataError: if ``cudnn`` is requested without an NVIDIA GPU, or in float32.
    """
    chex.assert_equal_shape([key, value])
    chex.assert_equal_shape_prefix([query, key], 2)
    device = platform()
    form = choose(kind, derivative, device)
    if kind == "auto" and device not in TARGETS and layout.blocks is None:
        length = query.shape[1]
        form, chunk = ("einsum", chunk) if length <= SHORT else (form, min(chunk, length // CPU_CHUNKS))
    if form == "cudnn":
        query, key, value = checkpoint_name((query, key, value), INPUTS)
        plain = functools.partial(chunked_attention, chunk=chunk)
        return _with_tangent(_cudnn, plain)(query, key, value, layout)
    kernel = KERNELS[form](query, device, layout) if form in KERNELS else None
    if kernel is not None and (run := _on_shards(kernel, query, key)) is not None:
        reach = reach_of(layout)
        return run(query, key, value, jnp.full(query.shape[:2], query.shape[1], jnp.int32) if reach is None else reach)
    query, key, value = checkpoint_name((query, key, value), INPUTS)
    if layout.blocks is not None:
        return block_attention(query, key, value, layout)
    if form == "einsum":
        return einsum_attention(query, key, value, layout)
    return chunked_attention(query, key, value, layout, chunk)


def _on_shards(kernel: Kernel, query: Array, key: Array) -> Kernel | None:
    """The kernel on each device's rows and heads; None if the active mesh does not divide the batch.

    The partitioner cannot split a kernel: without ``shard_map``, every device would compute the whole batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel
    # Also on a mesh of one device: inside shard_map, values kept for the backward pass are not copied.
    batch, _, heads, _ = _axes(("batch", "length", "heads", None))
    *_, kv_heads, _ = _axes(("batch", "length", "kv_heads", None))
    if heads != kv_heads:  # the query heads of a device would need key heads of another device
        heads = None
    if query.shape[0] % ways(mesh, batch) or key.shape[2] % ways(mesh, heads):
        return None
    spec, tokens = PartitionSpec(batch, None, heads, None), PartitionSpec(batch, None)
    return jax.shard_map(kernel, in_specs=(spec, spec, spec, tokens), out_specs=spec, check_vma=False)


def _axes(names: tuple[str | None, ...]) -> tuple[Any, ...]:
    spec = tuple(nn.logical_to_mesh_axes(names) or ())
    return spec + (None,) * (len(names) - len(spec))


def batch_ways() -> int:
    """The number of devices that the batch is split over, by the active mesh and rules."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else ways(mesh, _axes(("batch",))[0])


def ways(mesh: Any, axes: Any) -> int:
    """The number of devices along one or several mesh axes; 1 for None."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


# ---------------------------------------------------------------- kernels


def _with_tangent(reverse: Callable[..., Array], forward: Callable[..., Array]) -> Callable[..., Array]:
    """Combines ``reverse``, which has only a reverse mode, with the tangent of ``forward``; both have the same value.

    Both take (query, key, value, undifferentiated arguments). The result can be differentiated once, in either mode, so
    one linearization serves a gradient and a tangent pass.
    """

    @jax.custom_jvp
    def attend(query: Array, key: Array, value: Array, rest: Any) -> Array:
        return reverse(query, key, value, rest)

    @attend.defjvp
    def tangent(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        *inputs, rest = primals
        out, pull = jax.vjp(lambda *inputs: reverse(*inputs, rest), *inputs)

        def along(kept: Any, moved: tuple[Array, ...]) -> Array:
            inputs, rest, _ = kept
            return jax.jvp(lambda *inputs: forward(*inputs, rest), tuple(inputs), moved)[1].astype(out.dtype)

        def back(kept: Any, cotangent: Array) -> tuple[Array, ...]:
            return kept[2](cotangent)

        return out, linear_call(along, back, (inputs, rest, pull), tuple(tangents[:3]))

    return attend


def _dual(query: Array, device: str, layout: Layout, interpret: bool = False) -> Kernel | None:
    """This package's kernel, for the forward-mode pass and for scoring (``kernels/dual_attention.py``)."""
    target = Target(TARGETS[device].backend, TARGETS[device].block, interpret) if device in TARGETS else None
    if target is None or target.blocks(query.shape[1]) is None or query.shape[3] % 64:
        return None
    return functools.partial(dual_attention, target=target)


def _splash(query: Array, device: str, layout: Layout, interpret: bool = False) -> Kernel | None:
    """The splash attention kernel of jax, for TPUs: reverse mode, packed sequences (no branches, no trees)."""
    length = query.shape[1]
    if length % 128 or query.shape[3] % 64 or layout.branches is not None or layout.reach is not None:
        return None
    return functools.partial(_call_splash, interpret)


def _call_splash(interpret: bool, query: Array, key: Array, value: Array, reach: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, length, heads, width = query.shape
    groups = key.shape[2]
    rows, keys = (next(size for size in (most, most // 2, 256, 128) if length % size == 0) for most in SPLASH_BLOCK)
    # A fused backward kernel would write a part of dq for every block of keys, and these parts would have to be summed.
    compute = min(keys, 512)
    sizes = splash.BlockSizes(
        block_q=rows, block_kv=keys, block_kv_compute=compute, block_q_dkv=rows, block_kv_dkv=keys,
        block_kv_dkv_compute=compute, block_q_dq=rows, block_kv_dq=keys, use_fused_bwd_kernel=False,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * (heads // groups))
    one = splash.make_splash_mqa_single_device(
        mask, block_sizes=sizes, residual_checkpoint_name=SAVED, interpret=interpret
    )
    # In packed sequences, the reach of a token is the end of its sequence, which serves as the segment id.
    each = jax.vmap(jax.vmap(one, (0, 0, 0, None)), (0, 0, 0, 0))
    split = jnp.moveaxis(query, 1, 2).reshape(batch, groups, heads // groups, length, width) * width**-0.5
    split, key, value = checkpoint_name((split, jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2)), INPUTS)

    def forward(split: Array, key: Array, value: Array, reach: Array) -> Array:
        """The dual kernel on splash's operands, whose queries are already scaled."""
        heads_last = [jnp.moveaxis(x.reshape(batch, -1, length, width), 1, 2) for x in (split, key, value)]
        out = dual_attention(*heads_last, reach, dataclasses.replace(TARGETS["tpu"], interpret=interpret), 1.0)
        return jnp.moveaxis(out, 2, 1).reshape(split.shape)

    attend = _with_tangent(lambda *x: each(*x[:3], splash.SegmentIds(x[3], x[3])), forward)
    out = attend(split, key, value, reach)
    return jnp.moveaxis(out.reshape(batch, heads, length, width), 2, 1).astype(query.dtype)


SPLASH_BLOCK = (1024, 1024)  # query rows, keys


def _triton(query: Array, device: str, layout: Layout, interpret: bool = False) -> Kernel | None:
    """The Triton kernel of jax, for GPUs: reverse mode, packed sequences (no branches, no trees)."""
    if query.shape[1] % 128 or query.shape[3] % 16 or layout.branches is not None or layout.reach is not None:
        return None
    return functools.partial(_call_triton, interpret)


def _call_triton(interpret: bool, query: Array, key: Array, value: Array, reach: Array) -> Array:
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    group, width = query.shape[2] // key.shape[2], query.shape[3]
    query, key, value = checkpoint_name((query, key, value), INPUTS)
    sizes = BlockSizes(block_q=128, block_k=64, block_q_dkv=32, block_kv_dkv=64, block_q_dq=64, block_kv_dq=32)

    def reverse(query: Array, key: Array, value: Array, reach: Array) -> Array:
        key, value = jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2)
        return mha(query, key, value, reach, width**-0.5, True, sizes, interpret=interpret)

    forward = functools.partial(dual_attention, target=dataclasses.replace(TARGETS["gpu"], interpret=interpret))
    return _with_tangent(reverse, forward)(query, key, value, reach)


KERNELS: dict[str, Callable[..., Kernel | None]] = {"dual": _dual, "splash": _splash, "triton": _triton}


def _cudnn(query: Array, key: Array, value: Array, layout: Layout) -> Array:
    """cuDNN's flash attention, on NVIDIA GPUs, in bfloat16 or float16. Reverse mode only.

    A row with one sequence needs only the causal mask, and the kernel then skips the upper triangle. Packed rows need a
    mask of B x T x T.
    """
    from dreamprm_jax.models.attention import visible

    if query.dtype == jnp.float32:
        raise DataError("model.attention='cudnn' computes in bfloat16: set model.dtype to 'bfloat16'")
    reach = reach_of(layout)
    mask = None if reach is None else visible(reach, query.shape[1])[:, None]
    try:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=mask is None, implementation="cudnn"
        )
    except RuntimeError as error:  # no cuDNN, or one too old
        raise DataError(f"model.attention='cudnn' needs an NVIDIA GPU with cuDNN ({error}); set 'chunked'") from error
