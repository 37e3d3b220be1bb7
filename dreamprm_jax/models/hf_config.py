"""Converts Hugging Face's config.json to a ``DecoderConfig`` and back, for Qwen2, Qwen3, Llama and Mistral."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.rope import ROPE_TYPES, RopeScaling
from dreamprm_jax.schema import DataError

ARCHITECTURES = {
    "qwen2": "Qwen2ForTokenClassification",
    "qwen3": "Qwen3ForTokenClassification",
    "llama": "LlamaForTokenClassification",
    "mistral": "MistralForTokenClassification",
}


class _Fields:
    """The values of one config.json, with errors that name the file and the field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{path}: not found; a Hugging Face model folder has a config.json") from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: not readable as JSON ({error})") from error
        if not isinstance(self.values, dict):
            raise DataError(f"{path}: holds no JSON object")

    def fail(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.path}: field '{field}' {problem}")

    def number(self, field: str, kind: type = int, default: Any = None) -> Any:
        value = self.values.get(field)
        if value is None:
            value = default
        if value is None:
            raise self.fail(field, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value or value <= 0:
            raise self.fail(field, f"is {value!r}; a positive {kind.__name__} is needed")
        return kind(value)

    def flag(self, field: str) -> bool:
        value = self.values.get(field)
        value = False if value is None else value
        if not isinstance(value, bool):
            raise self.fail(field, f"is {value!r}; true or false is needed")
        return value


def _rope(fields: _Fields) -> tuple[float, RopeScaling | None]:
    """Base frequency and scaling of RoPE: rope_theta and rope_scaling, or rope_parameters since transformers v5."""
    field = "rope_parameters" if fields.values.get("rope_parameters") else "rope_scaling"
    values = fields.values.get(field) or {}
    if not isinstance(values, dict):
        raise fields.fail(field, f"is {values!r}; an object is needed")
    if any(isinstance(value, dict) for value in values.values()):
        raise fields.fail(field, "has settings for each kind of layer, which is not supported")
    theta = values.get("rope_theta", fields.values.get("rope_theta", 10000.0))
    if not _is_positive(theta):
        raise fields.fail("rope_theta", f"is {theta!r}; a positive number is needed")
    for where in (values, fields.values):
        if where.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise fields.fail("partial_rotary_factor", "is not 1, which is not supported")
    kind = values.get("rope_type", values.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind not in ROPE_TYPES:
        raise fields.fail(field, f"asks for rope type {kind!r}; supported are default, {', '.join(ROPE_TYPES)}")
    needed, optional = ROPE_TYPES[kind]
    # The training context that transformers assumes if the field of the scaling type is missing.
    given = {"original_max_position_embeddings": fields.values.get("max_position_embeddings")} | values
    numbers = {name: value for name in (*needed, *optional) if (value := given.get(name)) is not None}
    if bad := [name for name in needed if not _is_positive(numbers.get(name))]:
        raise fields.fail(field, f"of type {kind!r} lacks the numbers {bad}")
    if bad := [name for name, value in numbers.items() if not isinstance(value, int | float)]:
        raise fields.fail(field, f"of type {kind!r} has no number in {bad}")
    return float(theta), RopeScaling(kind, tuple(sorted(numbers.items())))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _window(fields: _Fields, kind: str) -> int | None:
    """The size of the sliding attention window in tokens; None for full causal attention."""
    layers = fields.values.get("layer_types") or []
    if not isinstance(layers, list):
        raise fields.fail("layer_types", f"is {layers!r}; a list is needed")
    if other := [name for name in layers if name not in ("full_attention", "sliding_attention")]:
        raise fields.fail("layer_types", f"names {other[0]!r}; supported are full_attention and sliding_attention")
    if kind != "mistral" and not fields.flag("use_sliding_window") and "sliding_attention" not in layers:
        return None
    if fields.values.get("sliding_window") is None:
        return None
    return fields.number("sliding_window")


def read_config(folder: Path) -> DecoderConfig:
    """Reads ``folder/config.json``. Numerics (dtype, remat, attention, LoRA, head) keep their defaults.

    For a model with a sliding window, ``max_positions`` is at most the window: up to that length, its attention equals
    full attention.

    Raises:
      DataError: if a field is missing or malformed, or asks for something that the decoder does not support (another
        architecture or activation, MLP biases, other RoPE types, quantized weights); names the file and the field.
    """
    fields = _Fields(folder / "config.json")
    kind = fields.values.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise fields.fail("model_type", f"is {kind!r}; supported are {', '.join(ARCHITECTURES)}")
    if (activation := fields.values.get("hidden_act", "silu")) != "silu":
        raise fields.fail("hidden_act", f"is {activation!r}; only 'silu' is supported")
    if quantized := fields.values.get("quantization_config"):
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        raise fields.fail(
            "quantization_config",
            f"says that the weights are quantized ({method}), which is not supported; use the folder in bfloat16",
        )
    if kind == "llama" and fields.flag("mlp_bias"):
        raise fields.fail("mlp_bias", "is true, which is not supported")
    hidden, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    if kind != "qwen3" and fields.values.get("head_dim") is None and hidden % heads:
        raise fields.fail("hidden_size", f"is {hidden}, not a multiple of num_attention_heads = {heads}")
    attention_bias = kind in ("qwen3", "llama") and fields.flag("attention_bias")
    theta, scaling = _rope(fields)
    context, window = fields.number("max_position_embeddings"), _window(fields, kind)
    kv_heads = {"llama": heads, "mistral": 8}.get(kind)
    try:
        return DecoderConfig(
            vocab_size=fields.number("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.number("intermediate_size"),
            num_layers=fields.number("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=fields.number("num_key_value_heads", default=kv_heads),
            head_dim=fields.number("head_dim", default=128 if kind == "qwen3" else hidden // heads),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=fields.number("rms_norm_eps", float, 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings"),
            qkv_bias=attention_bias or kind == "qwen2",
            output_bias=attention_bias,
            qk_norm=kind == "qwen3",
            max_positions=context if window is None else min(context, window),
        )
    except DataError as error:
        if str(error).startswith(str(fields.path)):
            raise
        raise DataError(f"{fields.path}: {error}") from error


def config_values(folder: Path) -> dict[str, Any]:
    """The values of ``folder/config.json``, unchanged. Raises DataError if it cannot be read."""
    return _Fields(folder / "config.json").values


def special_ids(folder: Path) -> dict[str, int]:
    """The ids of the BOS and EOS tokens, by their field in ``folder/config.json``; missing fields are left out."""
    values = config_values(folder)
    numbers = {field: values.get(field) for field in ("bos_token_id", "eos_token_id")}
    first = {field: number[0] if isinstance(number, list) and number else number for field, number in numbers.items()}
    return {field: number for field, number in first.items() if isinstance(number, int)}


def model_type(config: DecoderConfig) -> str:
    """The Hugging Face architecture (``model_type``) that is equivalent to this decoder.

    Raises:
      DataError: if there is none.
    """
    if config.qk_norm and config.qkv_bias == config.output_bias:
        return "qwen3"
    if not config.qk_norm and config.qkv_bias == config.output_bias:
        return "llama"
    if not config.qk_norm and config.qkv_bias and config.head_dim * config.num_heads == config.hidden_size:
        return "qwen2"
    raise DataError(
        f"model: no Hugging Face architecture has qk_norm={config.qk_norm}, qkv_bias={config.qkv_bias}, "
        f"output_bias={config.output_bias} with head_dim={config.head_dim}"
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The config.json of this reward model as a token classifier with one label, readable by transformers 4 and 5."""
    kind = model_type(config)
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "torch_dtype": config.param_dtype,
        "num_labels": 1,
        "id2label": {"0": "step_score"},
        "label2id": {"step_score": 0},
    }
    if config.rope_scaling is not None:
        values["rope_scaling"] = {"rope_type": config.rope_scaling.kind, **dict(config.rope_scaling.values)}
    if kind in ("qwen3", "llama"):
        values["attention_bias"] = config.qkv_bias
    if kind in ("qwen2", "qwen3"):
        values["use_sliding_window"] = False
    return values
