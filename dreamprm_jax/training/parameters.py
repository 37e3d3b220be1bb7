"""The parameters of a run: the initial ones, the frozen part, and the trained part of a checkpoint joined with it.

With LoRA only the adapters and the reward head are trained, and only they are in the train state and its checkpoints.
The frozen part is a function of ``config.model`` and ``config.seed`` and is created again whenever it is needed: read
from the weights, or drawn with the same key. Without LoRA everything is trained, and the frozen part is empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dreamprm_jax.bilevel.partition import merge
from dreamprm_jax.config import Config
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.lora import Part, take_part
from dreamprm_jax.models.pretrained import make_params
from dreamprm_jax.models.reward import Params, abstract_params
from dreamprm_jax.training.checkpoint import restore_params
from dreamprm_jax.training.mesh import activate, parameter_shardings


def initial_params(config: Config, model: DecoderConfig, mesh: Mesh, part: Part = "all") -> Params:
    """The parameters before the first step. Each leaf is created on the devices that hold it.

    Args:
      config: settings; the model section and the seed determine all values, on any mesh.
      model: ``model_config(config.model)``.
      mesh: the devices.
      part: which part of the parameters to create; the leaves of the other part are None.
    """
    with activate(model, mesh):
        return make_params(config.model, model, jax.random.key(config.seed), parameter_shardings(model, mesh), part)


def frozen_params(config: Config, model: DecoderConfig, mesh: Mesh, scoring: bool = False) -> Params:
    """The frozen part of ``initial_params``, empty without LoRA. For ``scoring`` see ``trained_params``."""
    if model.lora is None:
        return take_part(model, abstract_params(model), "frozen")
    frozen = initial_params(config, model, mesh, "frozen")
    return _as_computed(model, frozen) if scoring else frozen


def trained_params(
    model: DecoderConfig, mesh: Mesh, checkpoints: Path, frozen: Params, scoring: bool = False
) -> tuple[int, Params]:
    """(steps trained, all parameters) of an arm's newest checkpoint.

    Args:
      model: the decoder.
      mesh: the devices.
      checkpoints: the arm's folder of checkpoints.
      frozen: result of ``frozen_params`` with the same ``scoring``.
      scoring: whether the parameters are only used for scoring. Kernels and the embedding are then read in
        ``model.dtype``, in which the model computes. The scores are the same, bit for bit.

    Raises:
      DataError: if there is no checkpoint.
    """
    abstract = take_part(model, abstract_params(model), "trainable")
    if scoring:
        abstract = _as_computed(model, abstract)
    shardings = take_part(model, parameter_shardings(model, mesh), "trainable")
    step, trainable = restore_params(checkpoints, abstract, shardings)
    return step, merge(trainable, frozen)


def _as_computed(model: DecoderConfig, params: Params) -> Params:
    """Casts arrays, or their shapes, to ``model.dtype`` if the model casts them to it before any use."""

    def cast(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        if names[0] != "decoder" or names[-1] not in ("kernel", "embedding"):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(model.dtype))
        return leaf.astype(model.dtype)

    return jax.tree_util.tree_map_with_path(cast, params)
