"""Makes the model of ``config.model``: random with a given shape, or pretrained from a folder, the hub or a package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from tokenizers import Tokenizer

from dreamprm_jax.config import ModelConfig
from dreamprm_jax.models.decoder import DecoderConfig, decoder_config
from dreamprm_jax.models.hf_config import read_config, special_ids
from dreamprm_jax.models.hf_import import check_folder, folder_head, load_params
from dreamprm_jax.models.lora import Part, take_part
from dreamprm_jax.models.reward import Params, init_params
from dreamprm_jax.models.smollm2 import smollm2_folder
from dreamprm_jax.models.tokenizer import as_recorded
from dreamprm_jax.schema import DataError

HUB_FILES = [
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*",
]  # fmt: skip


def weights_folder(weights: str) -> Path:
    """The local Hugging Face folder for ``config.model.weights``: itself, a hub snapshot, or the converted SmolLM2.

    A hub id may include a revision: owner/name@revision. If the hub cannot be reached, its local cache is used.

    Raises:
      DataError: if the folder does not exist and cannot be downloaded.
    """
    if weights == "smollm2":
        return smollm2_folder()
    if Path(weights).is_dir():
        return Path(weights)
    if weights.count("/") != 1 or weights.startswith((".", "/", "~")):
        raise DataError(
            f"model.weights={weights!r}: no such folder (a hub id has the form 'owner/name' or 'owner/name@revision')"
        )
    from huggingface_hub import snapshot_download

    name, _, revision = weights.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises its own, requests' and OS errors
        raise DataError(
            f"model.weights={weights!r}: no such folder, and the hub did not give it: "
            f"{type(error).__name__}: {error}; download it elsewhere and give the folder"
        ) from error


def model_config(model: ModelConfig) -> DecoderConfig:
    """The decoder of ``config.model``. Its shape is that of the weights, if given; its numerics are the settings'.

    Raises:
      DataError: if the architecture of the weights is not supported, or ``max_length`` exceeds their context.
    """
    own = decoder_config(dataclasses.replace(model, weights=""))
    if not model.weights:
        return own
    folder = weights_folder(model.weights)
    shape = read_config(folder)
    if model.max_length > shape.max_positions:
        raise DataError(
            f"model.max_length={model.max_length} exceeds the context of {folder / 'config.json'}: "
            f"max_position_embeddings={shape.max_positions}"
        )
    own_head: dict[str, Any] = {"head_hidden": own.head_hidden}
    if not own.head_hidden and any(folder.glob("*.safetensors*")):
        _, hidden = folder_head(folder)
        own_head = {"head_hidden": hidden, "head_activation": "relu"} if hidden else own_head
    numerics = ("dtype", "param_dtype", "matmul_precision", "remat", "attention", "attention_chunk", "lora")
    return dataclasses.replace(shape, **own_head, **{name: getattr(own, name) for name in numerics})


def make_params(
    model: ModelConfig, config: DecoderConfig, rng: jax.Array, shardings: Any = None, part: Part = "all"
) -> Params:
    """Parameters of ``model_config(model)``, random or loaded. Each shard is created on its device.

    Args:
      model: settings of the model.
      config: ``model_config(model)``.
      rng: key for the randomly initialized parameters.
      shardings: ``training.mesh.parameter_shardings``; None: the default device.
      part: which parameters to make; the others are None.
    """
    if model.weights:
        return load_params(config, weights_folder(model.weights), rng, shardings, part=part)
    places = None if shardings is None else take_part(config, shardings, part)
    return jax.jit(lambda key: take_part(config, init_params(config, key), part), out_shardings=places)(rng)


def load_tokenizer(model: ModelConfig, config: DecoderConfig) -> Tokenizer:
    """The tokenizer that belongs to ``model.weights``.

    Raises:
      DataError: if the folder has no tokenizer, or its tokenizer has token ids beyond the rows of the embedding or
        lacks the BOS or EOS token of config.json.
    """
    folder = weights_folder(model.weights)
    path = folder / "tokenizer.json"
    if not path.exists():
        raise DataError(f"{path}: not found; save the tokenizer beside the weights (a fast tokenizer)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: not a tokenizer.json ({error})") from error
    check_tokenizer(tokenizer, config, path)
    for field, number in special_ids(folder).items():
        if tokenizer.id_to_token(number) is None:
            raise DataError(
                f"{path}: has no token {number}, the {field} of {folder / 'config.json'}: "
                "the tokenizer belongs to other weights"
            )
    return as_recorded(tokenizer, path)


def check_weights(model: ModelConfig, config: DecoderConfig) -> None:
    """Checks a folder's tensors and tokenizer, if they exist. Reads only names and shapes of the decoder's tensors.

    Raises:
      DataError: if a check fails; names the file, and the tensor or field.
    """
    folder = weights_folder(model.weights)
    if any(folder.glob("*.safetensors*")):
        check_folder(config, folder)
    if (folder / "tokenizer.json").exists():
        load_tokenizer(model, config)


def check_tokenizer(tokenizer: Tokenizer, config: DecoderConfig, path: Path) -> None:
    """Checks that every token has a row in the embedding.

    Raises:
      DataError: if a token has none; names ``path``, the tokenizer's file.
    """
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise DataError(
            f"{path}: token id {largest} has no row in an embedding of vocab_size={config.vocab_size}: "
            "the tokenizer belongs to other weights"
        )
