"""Loads weights from a Hugging Face folder directly into the shards of each device.

The slice of each parameter that a device holds is read from the memory-mapped safetensors files, so no host ever holds
the whole model. Parameters that a checkpoint does not contain (LoRA's A and B; the reward head, unless it is a reward
model) are initialized at random, as in ``init_params``. All tensors of a checkpoint are used, except the output
embedding and old rotary buffers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.heads import Head, find_head
from dreamprm_jax.models.hf_config import config_values
from dreamprm_jax.models.hf_tensors import Tensor, tensor_table
from dreamprm_jax.models.lora import Part, take_part
from dreamprm_jax.models.reward import Params, abstract_params, init_params
from dreamprm_jax.schema import DataError

INDEX = "model.safetensors.index.json"
# Not used by a reward model: the output embedding, and buffers that old checkpoints contain.
UNUSED = ("lm_head.weight", ".rotary_emb.inv_freq")
DTYPES = ("F64", "F32", "F16", "BF16")
# Files of unsupported kinds, and what to do with them.
OTHER_FILES = {
    "adapter_model*": "is a PEFT adapter; merge it into its base model and save that (merge_and_unload)",
    "pytorch_model*": "is a pickle; load it with transformers and save it again (save_pretrained) as safetensors",
    "*.gguf": "is a GGUF file; give the folder that it was converted from",
}
VALUE_HEAD = "value_head.safetensors"  # next to the model, as saved by LLaMA-Factory


class Checkpoint(contextlib.ExitStack):
    """The open safetensors files of a folder. ``checkpoint[name]`` is a lazy tensor, of which only slices are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._files: dict[str, Any] = {}  # tensor name -> open file
        self._paths: dict[str, Path] = {}
        for path in self._listed():
            try:
                handle = self.enter_context(safe_open(path, framework="numpy"))
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: not readable as safetensors ({error})") from error
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                self._files[name], self._paths[name] = handle, path
        # A folder saved from a decoder without a head has tensor names without the prefix "model.".
        self._prefix = "" if "model.embed_tokens.weight" in self._files else "model."

    def _listed(self) -> list[Path]:
        index, path = self.folder / INDEX, self.folder / "model.safetensors"
        beside = [self.folder / VALUE_HEAD] if (self.folder / VALUE_HEAD).exists() else []
        if not index.exists():
            if not path.exists():
                others = [f"{p.name} {what}" for glob, what in OTHER_FILES.items() for p in self.folder.glob(glob)]
                found = f"; {others[0]}" if others else ""
                raise DataError(f"{self.folder}: neither model.safetensors nor {INDEX} is there{found}")
            return [path, *beside]
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: field 'weight_map' is missing or malformed ({error})") from error
        if missing := [name for name in names if not (self.folder / name).exists()]:
            raise DataError(f"{index}: field 'weight_map' names {missing}, not in the folder")
        return [*(self.folder / name for name in names), *beside]

    def _stored_name(self, name: str) -> str:
        return name if name in self._files else name.removeprefix(self._prefix)

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) in self._files

    def __getitem__(self, name: str) -> Any:
        name = self._stored_name(name)
        return self._files[name].get_slice(name)

    def check(self, table: Iterable[Tensor], head: Iterable[str]) -> None:
        """Checks that the table's tensors exist with the right shapes, and that no other tensor would be ignored.

        Args:
          table: the decoder's tensors.
          head: the names of the reward head's tensors.

        Raises:
          DataError: if a tensor is missing, unused, or has the wrong shape or dtype; names the file and the tensor.
        """
        used = {self._stored_name(name) for name in head}
        for tensor in table:
            for name in tensor.names():
                if name not in self:
                    raise DataError(f"{self.folder}: tensor '{name}' is missing; config.json describes another model")
                stored = self._stored_name(name)
                shape = tuple(self[name].get_shape())
                if shape != tensor.stored_shape:
                    raise DataError(
                        f"{self._paths[stored]}: tensor '{stored}' has shape {shape}, config.json asks for "
                        f"{tensor.stored_shape}"
                    )
                used.add(stored)
        for name in used:
            if (dtype := self._files[name].get_slice(name).get_dtype()) not in DTYPES:
                raise DataError(
                    f"{self._paths[name]}: tensor '{name}' is stored as {dtype}; supported are {', '.join(DTYPES)}: "
                    "use the folder whose weights are not quantized"
                )
        left = sorted(n for n in self._files if n not in used and not n.endswith(UNUSED))
        if left:
            raise DataError(
                f"{self._paths[left[0]]}: tensor '{left[0]}' and {len(left) - 1} more have no place in the decoder "
                "that config.json describes, nor in a reward head that is known"
            )


def folder_head(folder: Path) -> tuple[Head | None, int]:
    """The reward head of a folder's checkpoint and the width of its hidden layer (0: linear); (None, 0) without a head.

    Raises:
      DataError: if the head cannot be reduced to one logit; names the tensor.
    """
    with Checkpoint(folder) as checkpoint:
        head = find_head(checkpoint, config_values(folder))
        return head, 0 if head is None else head.hidden(checkpoint)


def _checked(
    config: DecoderConfig, checkpoint: Checkpoint, head: Head | None
) -> tuple[list[Tensor], dict[tuple[str, ...], np.ndarray]]:
    """Checks the checkpoint; returns the table of the decoder's tensors, and the values of the head (empty if none)."""
    table = tensor_table(config)
    head = head or find_head(checkpoint, config_values(checkpoint.folder))
    checkpoint.check(table, head.names(checkpoint) if head else ())
    if head is None:
        return table, {}
    if (hidden := head.hidden(checkpoint)) != config.head_hidden:
        kind = f"with a hidden layer of {hidden}" if hidden else "linear"
        raise DataError(
            f"{checkpoint.folder}: has a reward head '{head.tensor}' ({kind}), not one with model.head_hidden="
            f"{config.head_hidden}; set model.head_hidden=0, which takes the folder's own"
        )
    return table, head.read(checkpoint, config.hidden_size)


def check_folder(config: DecoderConfig, folder: Path) -> None:
    """Checks a folder's tensors as ``load_params`` does, without loading the decoder.

    Raises:
      DataError: if a tensor is missing, unused, or has the wrong shape or dtype; names the file and the tensor.
    """
    with Checkpoint(folder) as checkpoint:
        _checked(config, checkpoint, None)


def load_params(
    config: DecoderConfig,
    folder: Path,
    rng: jax.Array,
    shardings: Any = None,
    head: Head | None = None,
    part: Part = "all",
) -> Params:
    """Loads a reward model's parameters.

    Args:
      config: the result of ``read_config(folder)``, with the desired numerics. Parameters are cast to
        ``config.param_dtype``.
      folder: folder with model.safetensors, or with several files and their index.
      rng: key for the parameters that the checkpoint does not contain.
      shardings: pytree of ``Sharding`` (``training.mesh.parameter_shardings``); None puts all parameters on one device
        of this process.
      head: the reward head in the checkpoint; None: the head that ``find_head`` finds, or else a random one.
      part: which parameters to load.

    Returns:
      The pytree of ``init_params``, with None in place of the parameters of other parts.

    Raises:
      DataError: if a tensor is missing, unused, or has the wrong shape or dtype; names the file and the tensor.
    """
    shapes = flax.traverse_util.flatten_dict(abstract_params(config))
    if shardings is None:
        places: dict[tuple[str, ...], Sharding] = dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    else:
        places = flax.traverse_util.flatten_dict(shardings)
    chosen = {
        path
        for path, leaf in flax.traverse_util.flatten_dict(take_part(config, abstract_params(config), part)).items()
        if leaf is not None
    }
    leaves: dict[tuple[str, ...], jax.Array] = {}
    with Checkpoint(folder) as checkpoint:
        table, head_values = _checked(config, checkpoint, head)
        for path, value in head_values.items():
            if path not in chosen:
                continue
            leaves[path] = jax.make_array_from_callback(value.shape, places[path], value.__getitem__)
        for tensor in table:
            if tensor.path not in chosen:
                continue
            dtype = shapes[tensor.path].dtype

            def read(index: Any, tensor: Tensor = tensor, dtype: Any = dtype) -> np.ndarray:
                return tensor.read(index, checkpoint.__getitem__).astype(dtype)

            shape, place = shapes[tensor.path].shape, places[tensor.path]
            leaves[tensor.path] = jax.make_array_from_callback(shape, place, read, dtype=dtype)
    missing = [path for path in shapes if path in chosen and path not in leaves]

    def initialize(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
        everything = flax.traverse_util.flatten_dict(init_params(config, key))
        return {path: everything[path] for path in missing}

    if missing:
        leaves |= jax.jit(initialize, out_shardings={path: places[path] for path in missing})(rng)
    return flax.traverse_util.unflatten_dict({path: leaves.get(path) for path in shapes})
