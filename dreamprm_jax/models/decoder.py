"""One decoder for Qwen2, Qwen3, Llama and Mistral: pre-norm blocks, rotary positions, grouped-query attention, SwiGLU.

Axis legend: B batch, T tokens, N query heads, K key/value heads, G = N / K, H head width, D model width, F mlp width,
V vocabulary, L layers, R LoRA rank.

Parameters carry logical axis names (``training/mesh.py`` maps them to mesh axes): layers, vocab, embed (D of a weight),
heads, kv_heads, head_dim, mlp, norm, lora. Activations are constrained on batch, length, activation_embed, heads,
kv_heads and mlp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import linear_call
from jax.experimental.layout import Layout as DeviceLayout
from jax.experimental.layout import with_layout_constraint
from jaxtyping import Array, Float, Int

from dreamprm_jax.config import LoraConfig, ModelConfig
from dreamprm_jax.models.attention import Layout
from dreamprm_jax.models.fused import INPUTS, SAVED, Derivative, attention, batch_ways, platform
from dreamprm_jax.models.rope import RopeScaling, rope_frequencies
from dreamprm_jax.schema import DataError

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of the decoder and of the reward head on it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    qkv_bias: bool = False  # Qwen2; Llama's attention_bias
    output_bias: bool = False  # Llama's attention_bias
    qk_norm: bool = False  # Qwen3
    max_positions: int = 32768
    dtype: str = "float32"  # of activations and matrix products
    matmul_precision: str = "highest"  # of float32 products, as jax.default_matmul_precision
    param_dtype: str = "float32"
    remat: Literal["none", "full", "attention", "dots", "offload"] = "none"
    attention: Literal["auto", "einsum", "chunked", "splash", "triton", "cudnn"] = "einsum"
    attention_chunk: int = 256  # query rows at a time, for "chunked"
    derivative: Derivative = "any"  # the derivatives taken of a pass, which select the attention form (models/fused.py)
    head_hidden: int = 0  # width of the reward head's hidden layer; 0: a linear head
    head_activation: Literal["silu", "relu"] = "silu"  # of that layer; relu in Qwen's reward models
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise DataError(f"model: num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        if self.head_dim % 2:
            raise DataError(f"model: head_dim={self.head_dim} must be even for rotary positions")
        if self.lora is not None and (unknown := set(self.lora.targets) - set(PROJECTIONS)):
            raise DataError(f"model.lora.targets: {sorted(unknown)} are no projections; choose from {PROJECTIONS}")


def decoder_config(model: ModelConfig) -> DecoderConfig:
    """The decoder with the shape given in the settings, for random initialization.

    Raises:
      DataError: if the settings name pretrained weights (``models.pretrained.model_config``), or an impossible shape.
    """
    if model.weights:
        raise DataError(f"model.weights={model.weights!r}: this stage makes random parameters only; set it to ''")
    if model.hidden_size % model.num_heads:
        raise DataError(
            f"model.hidden_size={model.hidden_size} must be a multiple of model.num_heads={model.num_heads}"
        )
    names = [{field.name for field in fields(kind)} for kind in (DecoderConfig, ModelConfig)]
    same = set.intersection(*names) - {"lora"}  # all settings that both have
    return DecoderConfig(
        **{name: getattr(model, name) for name in same},
        head_dim=model.hidden_size // model.num_heads,
        qkv_bias=model.architecture == "qwen2",
        qk_norm=model.architecture == "qwen3",
        max_positions=model.max_length,
        lora=model.lora if model.lora.rank else None,
    )


# ---------------------------------------------------------------- parts


def rotary(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], config: DecoderConfig) -> Float[Array, "B T N H"]:
    """Rotary position embedding in the half-split form of Llama, with angles and rotation in float32."""
    frequencies, factor = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies  # [B T H/2]
    cos, sin = factor * jnp.cos(angles)[:, :, None], factor * jnp.sin(angles)[:, :, None]
    if x.dtype == jnp.bfloat16:  # an exact product swaps the halves, because half a head fills half of a TPU's lanes
        half = config.head_dim // 2
        exchange = np.roll(np.diag(np.repeat([1.0, -1.0], half)), half, axis=1)
        exchanged = jnp.einsum("btnh,hi->btni", x, exchange.astype(x.dtype), preferred_element_type=jnp.float32)
        whole = x.astype(jnp.float32) * jnp.tile(cos, 2) + exchanged * jnp.tile(sin, 2)
        return whole.astype(x.dtype)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def parameter(
    module: nn.Module, name: str, init: Callable[..., Any], axes: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> Array:
    """A parameter of ``module`` with the logical names of its axes."""
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.dtype(dtype)))


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in float32."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        ones = nn.initializers.ones_init()
        scale = parameter(self, "scale", ones, ("norm",), (x.shape[-1],), self.config.param_dtype)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.config.rms_norm_eps)
        return (wide * scale.astype(jnp.float32)).astype(x.dtype)


class Projection(nn.Module):
    """A linear map between named axes, with an optional bias and low-rank adapter.

    The kernel has the input axes, then the output axes: q is [D N H], o is [N H D].
    """

    config: DecoderConfig
    target: str  # its name in LoraConfig.targets
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    use_bias: bool = False
    init_scale: float = 1.0

    def setup(self) -> None:
        config, lora = self.config, self.config.lora
        (in_names, in_shape), (out_names, out_shape) = zip(*self.inputs, strict=True), zip(*self.outputs, strict=True)
        count = len(in_shape)
        fan_in = functools.partial(nn.initializers.variance_scaling, mode="fan_in", in_axis=tuple(range(count)))
        outputs = tuple(range(count, count + len(out_shape)))
        init = fan_in(self.init_scale, distribution="truncated_normal", out_axis=outputs)
        zeros = nn.initializers.zeros_init()
        self.names = in_names + out_names
        self.kernel = parameter(self, "kernel", init, self.names, in_shape + out_shape, config.param_dtype)
        if self.use_bias:
            self.bias = parameter(self, "bias", zeros, out_names, out_shape, config.param_dtype)
        self.adapted = lora is not None and self.target in lora.targets
        if lora is not None and self.adapted:
            # The adapter is float32 even if the frozen base is bfloat16, because its updates are small.
            init = fan_in(1.0, distribution="normal", out_axis=count)
            self.lora_a = parameter(self, "lora_a", init, (*in_names, "lora"), (*in_shape, lora.rank), "float32")
            self.lora_b = parameter(self, "lora_b", zeros, ("lora", *out_names), (lora.rank, *out_shape), "float32")

    def __call__(
        self, x: Float[Array, "B T *inputs"], low: Float[Array, "B T R"] | None
    ) -> Float[Array, "B T *outputs"]:
        """Applies the map to ``x``. ``low`` is the product of ``x`` and ``lora_a``, None without an adapter."""
        dtype = jnp.dtype(self.config.dtype)
        # Constrained after the cast, so that the gradient is reduced and scattered, not summed on every device.
        narrow = _constrain(self.kernel.astype(dtype), *self.names)
        y = jnp.tensordot(x.astype(dtype), narrow, axes=len(self.inputs))
        if self.use_bias:
            # In float32, because the gradient of the bias is a sum over all tokens.
            y = (y.astype(jnp.float32) + self.bias.astype(jnp.float32)).astype(dtype)
        if low is not None and self.config.lora is not None:
            y = y + self.config.lora.scale * jnp.tensordot(low, self.lora_b.astype(dtype), axes=1)
        return y


def _constrain(x: Array, *names: str | None) -> Array:
    x = nn.with_logical_constraint(x, names)
    if names[0] == "batch" and platform() == "tpu" and x.shape[0] > batch_ways():
        # The layout of the kernels: the last axis in the lanes, heads before tokens. Without this constraint the
        # compiler puts tokens last in some products and copies between the layouts (3B plain: .914 s instead of .852).
        # The condition is empirical: with one row per device, the same layouts increase the temporaries of the 70B step
        # on 256 chips from 14 to 172 GB. The reason is not known.
        x = with_layout_constraint(x, DeviceLayout((0, 2, 1, 3) if x.ndim == 4 else (0, 1, 2)))
    return x


@jax.custom_jvp
def lookup(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of the embedding table. The gradient of a row is summed in float32, whatever the table's dtype.

    In bfloat16 the sum of a frequent token stagnates: a token at 60 % of the positions lost 38 % of its gradient norm.
    """
    return jnp.take(table, tokens, axis=0)


@lookup.defjvp
def _lookup_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    table, tokens = primals
    wide = tangents[0].astype(jnp.promote_types(table.dtype, jnp.float32))
    return lookup(table, tokens), jnp.take(wide, tokens, axis=0).astype(table.dtype)


barrier = jax.lax.optimization_barrier


def swiglu(
    gate: Float[Array, "*shape"], up: Float[Array, "*shape"], derivative: Derivative = "any"
) -> Float[Array, "*shape"]:
    """silu(gate) * up, computed in float32.

    Barriers keep the compiler from fusing the derivative into the operands of the products that read it, which would
    recompute it for every tile of their output.
    """
    return (_swiglu if derivative == "any" else _swiglu_once)(gate, up)


def _swiglu(gate: Array, up: Array) -> Array:
    wide = gate.astype(jnp.float32)
    return (wide * jax.nn.sigmoid(wide) * up.astype(jnp.float32)).astype(gate.dtype)


@jax.custom_jvp
def _swiglu_once(gate: Array, up: Array) -> Array:
    return _swiglu(gate, up)


@_swiglu_once.defjvp
def _swiglu_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    def slopes(primals: tuple[Array, Array]) -> tuple[Array, Array]:
        wide, up = (x.astype(jnp.float32) for x in primals)
        sigmoid = jax.nn.sigmoid(wide)
        return sigmoid * (1.0 + wide * (1.0 - sigmoid)) * up, wide * sigmoid

    def along(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Array:
        by_gate, by_up = slopes(primals)
        dgate, dup = (x.astype(jnp.float32) for x in tangents)
        return barrier((by_gate * dgate + by_up * dup).astype(primals[0].dtype))

    def back(primals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        return barrier(
            tuple((slope * cotangent.astype(jnp.float32)).astype(cotangent.dtype) for slope in slopes(primals))
        )

    return _swiglu(*primals), linear_call(along, back, primals, tangents)


def read_by_products(x: Array, derivative: Derivative) -> Array:
    """Returns x. A barrier after the sum of its cotangents keeps a norm's derivative out of the products' tiles."""
    return _read_by_products(x) if derivative == "once" else x


@jax.custom_jvp
def _read_by_products(x: Array) -> Array:
    return x


@_read_by_products.defjvp
def _read_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], linear_call(lambda _, x: x, lambda _, x: barrier(x), (), tangents[0])


class Block(nn.Module):
    """Attention, then SwiGLU, each after an RMSNorm and added to the residual stream. The body of the layer scan."""

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], layout: Layout
    ) -> tuple[Float[Array, "B T D"], None]:
        config = self.config
        stream, heads, kv_heads = (
            ("embed", config.hidden_size),
            ("heads", config.num_heads),
            ("kv_heads", config.num_kv_heads),
        )
        width, mlp = ("head_dim", config.head_dim), ("mlp", config.intermediate_size)
        residual = 1.0 / (2 * config.num_layers)  # variance of each of the 2L branches; their sum has variance 1

        y = read_by_products(RMSNorm(config, name="attention_norm")(x), config.derivative)
        q, k, v = self._project(
            y,
            Projection(config, "q", (stream,), (heads, width), config.qkv_bias, name="q"),
            Projection(config, "k", (stream,), (kv_heads, width), config.qkv_bias, name="k"),
            Projection(config, "v", (stream,), (kv_heads, width), config.qkv_bias, name="v"),
        )
        if config.qk_norm:
            q, k = RMSNorm(config, name="q_norm")(q), RMSNorm(config, name="k_norm")(k)
        q = _constrain(rotary(q, positions, config), "batch", "length", "heads", None)
        k = _constrain(rotary(k, positions, config), "batch", "length", "kv_heads", None)
        v = _constrain(v, "batch", "length", "kv_heads", None)
        y = attention(q, k, v, layout, config.attention, config.attention_chunk, config.derivative)
        y = _constrain(y, "batch", "length", "heads", None)
        (y,) = self._project(
            y, Projection(config, "o", (heads, width), (stream,), config.output_bias, residual, name="o")
        )
        x = checkpoint_name(_constrain(x + y, "batch", "length", "activation_embed"), "stream")

        y = read_by_products(RMSNorm(config, name="mlp_norm")(x), config.derivative)
        gate, up = self._project(
            y,
            Projection(config, "gate", (stream,), (mlp,), name="gate"),
            Projection(config, "up", (stream,), (mlp,), name="up"),
        )
        gate, up = checkpoint_name((gate, up), "mlp")
        y = _constrain(swiglu(gate, up, config.derivative), "batch", "length", "mlp")
        (y,) = self._project(y, Projection(config, "down", (mlp,), (stream,), init_scale=residual, name="down"))
        return _constrain(x + y, "batch", "length", "activation_embed"), None

    def _project(self, x: Array, *projections: Projection) -> list[Array]:
        """All projections of ``x``. Their adapters share a dropout mask and one matrix product."""
        lora, adapted = self.config.lora, [each for each in projections if each.adapted]
        if lora is None or not adapted:
            return [each(x, None) for each in projections]
        dtype = jnp.dtype(self.config.dtype)
        a = jnp.concatenate([each.lora_a for each in adapted], axis=-1).astype(dtype)
        dropped = nn.Dropout(lora.dropout)(x, deterministic=self.deterministic).astype(dtype)
        with jax.named_scope(adapted[0].target):
            low = jnp.split(jnp.tensordot(dropped, a, axes=a.ndim - 1), len(adapted), axis=-1)
        of = dict(zip((each.target for each in adapted), low, strict=True))
        return [each(x, of.get(each.target)) for each in projections]


REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "attention": jax.checkpoint_policies.save_only_these_names(SAVED),
    "dots": jax.checkpoint_policies.save_only_these_names(SAVED, INPUTS, "stream", "mlp"),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[SAVED, "stream"],
        names_which_can_be_offloaded=[INPUTS, "mlp"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Decoder(nn.Module):
    """Maps tokens to normalized hidden states. Layers are stacked on a leading axis and run in one scan."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        layout: Layout = Layout(),  # noqa: B008
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Runs the decoder.

        Args:
          tokens: token ids, below ``vocab_size``.
          positions: rotary positions; they restart at every packed sequence.
          layout: which tokens attend to each other.
          deterministic: if False, LoRA dropout is drawn with the "dropout" key.

        Returns:
          Hidden states after the last norm, in ``config.dtype``.
        """
        config = self.config
        given = [a for a in (tokens, positions, *layout[:3]) if a is not None]
        chex.assert_rank(given, 2)
        chex.assert_equal_shape(given)
        chex.assert_type(given, int)
        shape = (config.vocab_size, config.hidden_size)
        table = parameter(self, "embedding", nn.initializers.normal(1.0), ("vocab", "embed"), shape, config.param_dtype)
        # Every device looks up all tokens of its replica in its own columns of the table; an all-to-all then turns
        # columns into rows. Neither the table nor its gradient is ever gathered.
        x = lookup(table, _constrain(tokens, "replica_batch", "length")).astype(config.dtype)
        x = _constrain(x, "replica_batch", "length", "embed")
        x = _constrain(x, "batch", "length", "activation_embed")

        block: Any = Block
        if config.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[config.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = layers(config, deterministic, name="layers")(x, positions, layout)
        return RMSNorm(config, name="final_norm")(x)
