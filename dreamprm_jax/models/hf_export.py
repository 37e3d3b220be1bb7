"""Writes a trained reward model as a Hugging Face folder that transformers loads for token classification.

The classifier has one label. Its logit at the last token of a step is the logit of the step, and the sigmoid of that is
the score of the step. LoRA is merged into the kernels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.hf_config import write_config
from dreamprm_jax.models.hf_import import INDEX
from dreamprm_jax.models.hf_tensors import head_table, tensor_table
from dreamprm_jax.models.lora import merge_adapters
from dreamprm_jax.models.reward import Params
from dreamprm_jax.schema import DataError

TRAINED_SEPARATOR = "dreamprm_separator"  # field of config.json if the model was trained on given steps
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def _host_array(leaf: jax.Array) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _files(config: DecoderConfig, params: Params, file_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    """The checkpoint's tensors in files of about ``file_bytes``. Copies one parameter to the host at a time."""
    leaves = flax.traverse_util.flatten_dict(params)
    pending: dict[str, np.ndarray] = {}
    for tensor in tensor_table(config) + head_table(config):
        for name, value in tensor.write(_host_array(leaves[tensor.path])).items():
            if pending and sum(v.nbytes for v in pending.values()) + value.nbytes > file_bytes:
                yield pending
                pending = {}
            pending[name] = value
    yield pending


def export_model(
    config: DecoderConfig,
    params: Params,
    folder: Path,
    tokenizer: Path | None = None,
    file_bytes: int = 4 << 30,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Writes the folder. All processes must call it; only the first one writes.

    Args:
      config: the model; the decoder is written in its ``param_dtype``, the head in float32.
      params: pytree of ``init_params``, sharded or not, with or without LoRA.
      folder: folder to write to. It is created if missing; existing model files are replaced.
      tokenizer: the tokenizer to copy into the folder: a Hugging Face folder, or a tokenizer.json.
      file_bytes: size in bytes above which the weights are split into several files.
      extra: additional fields of config.json.

    Returns:
      ``folder``.

    Raises:
      DataError: if transformers has no such model: the head has a hidden layer, or no architecture has this combination
        of biases and norms.
    """
    if config.head_hidden:
        raise DataError("model.head_hidden: transformers' token classifiers have a linear head; only 0 can be exported")
    values = {**write_config(config), **extra}
    if config.lora is not None:
        params = merge_adapters(params, config.lora)
    first = jax.process_index() == 0
    names: dict[str, str] = {}
    written: list[Path] = []
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for number, tensors in enumerate(_files(config, params, file_bytes), 1):
        size += sum(value.nbytes for value in tensors.values())
        path = folder / f"part-{number:05d}.safetensors"
        names |= dict.fromkeys(tensors, path.name)
        written.append(path)
        if first:
            save_file(tensors, path, metadata={"format": "pt"})
    if not first:
        return folder
    for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
        stale.unlink(missing_ok=True)
    final = {
        path.name: "model.safetensors" if len(written) == 1 else f"model-{n:05d}-of-{len(written):05d}.safetensors"
        for n, path in enumerate(written, 1)
    }
    for path in written:
        path.rename(folder / final[path.name])
        (folder / final[path.name]).chmod(0o644)  # safetensors makes files private, but servers run as other users
    if len(written) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": {name: final[part] for name, part in names.items()}}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        _copy_tokenizer(tokenizer, folder)
    return folder


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if source.is_dir():
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
    else:
        shutil.copyfile(source, folder / "tokenizer.json")
    settings = folder / "tokenizer_config.json"
    if not settings.exists():
        # This class uses tokenizer.json unchanged. But AutoTokenizer of transformers 5 uses Qwen2's pre-tokenizer for
        # every folder of model_type qwen2; load a tokenizer that was trained here with PreTrainedTokenizerFast.
        settings.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n", encoding="utf-8")
