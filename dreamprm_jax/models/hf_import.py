"""Weights from a Hugging Face folder, read straight into the shards that keep them.

Each device's part of each parameter is cut out of the memory-mapped safetensors files, so no host ever holds the whole
model. What the checkpoint lacks by nature (LoRA's A and B; the reward head, unless it is an exported reward model)
starts at random, as in ``init_params``.
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
from dreamprm_jax.models.hf_tensors import Tensor, head_table, tensor_table
from dreamprm_jax.models.reward import Params, abstract_params, init_params
from dreamprm_jax.schema import DataError

INDEX = "model.safetensors.index.json"
# Not read by a reward model: the vocabulary's output table, and buffers that old checkpoints store.
UNUSED = ("lm_head.weight", ".rotary_emb.inv_freq")


class Checkpoint(contextlib.ExitStack):
    """The open safetensors files of a folder: which tensor is where, and slices of it."""

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
        # A folder saved from the bare decoder names its tensors without the "model." in front.
        self._prefix = "" if "model.embed_tokens.weight" in self._files else "model."

    def _listed(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.exists():
            path = self.folder / "model.safetensors"
            if not path.exists():
                raise DataError(f"{self.folder}: neither model.safetensors nor {INDEX} is there")
            return [path]
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: field 'weight_map' is missing or malformed ({error})") from error
        if missing := [name for name in names if not (self.folder / name).exists()]:
            raise DataError(f"{index}: field 'weight_map' names {missing}, not in the folder")
        return [self.folder / name for name in names]

    def _stored_name(self, name: str) -> str:
        return name if name in self._files else name.removeprefix(self._prefix)

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) in self._files

    def __getitem__(self, name: str) -> Any:
        name = self._stored_name(name)
        return self._files[name].get_slice(name)

    def check(self, table: Iterable[Tensor]) -> None:
        """Checks that the table's tensors are there with their shapes, and that no other tensor would be ignored.

        Raises:
          DataError: naming the file and the tensor.
        """
        used = set()
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
        left = sorted(n for n in self._files if n not in used and not n.endswith(UNUSED) and not n.startswith("score."))
        if left:
            raise DataError(
                f"{self._paths[left[0]]}: tensor '{left[0]}' and {len(left) - 1} more have no place in the decoder "
                "that config.json describes"
            )


def _checked_table(config: DecoderConfig, checkpoint: Checkpoint) -> list[Tensor]:
    """What the checkpoint has of the model's parameters, all of it there and in shape."""
    table = tensor_table(config)
    if "score.weight" in checkpoint:
        if config.head_hidden:
            raise DataError(f"{checkpoint.folder}: has a linear reward head; set model.head_hidden=0")
        table += head_table(config)
    checkpoint.check(table)
    return table


def check_folder(config: DecoderConfig, folder: Path) -> None:
    """Checks a folder's tensors as ``load_params`` does, without loading any.

    Raises:
      DataError: naming the file and the tensor, when one is missing, mis-shaped or without a place.
    """
    with Checkpoint(folder) as checkpoint:
        _checked_table(config, checkpoint)


def load_params(config: DecoderConfig, folder: Path, rng: jax.Array, shardings: Any = None) -> Params:
    """Loads a reward model's parameters.

    Args:
      config: from ``read_config(folder)``, with the numerics wanted. Parameters are cast to ``config.param_dtype``.
      folder: with model.safetensors, or several files and their index.
      rng: for what the checkpoint lacks.
      shardings: pytree of ``Sharding`` (``training.mesh.parameter_shardings``); None puts all on one device of
        this process.

    Returns:
      The pytree of ``init_params``.

    Raises:
      DataError: naming the file and the tensor, when one is missing, mis-shaped or without a place.
    """
    shapes = flax.traverse_util.flatten_dict(abstract_params(config))
    if shardings is None:
        places: dict[tuple[str, ...], Sharding] = dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    else:
        places = flax.traverse_util.flatten_dict(shardings)
    leaves: dict[tuple[str, ...], jax.Array] = {}
    with Checkpoint(folder) as checkpoint:
        for tensor in _checked_table(config, checkpoint):
            dtype = shapes[tensor.path].dtype

            def part(index: Any, tensor: Tensor = tensor, dtype: Any = dtype) -> np.ndarray:
                return tensor.read(index, checkpoint.__getitem__).astype(dtype)

            shape, place = shapes[tensor.path].shape, places[tensor.path]
            leaves[tensor.path] = jax.make_array_from_callback(shape, place, part, dtype=dtype)
    missing = [path for path in shapes if path not in leaves]

    def initialise(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
        everything = flax.traverse_util.flatten_dict(init_params(config, key))
        return {path: everything[path] for path in missing}

    if missing:
        leaves |= jax.jit(initialise, out_shardings={path: places[path] for path in missing})(rng)
    return flax.traverse_util.unflatten_dict(leaves)
