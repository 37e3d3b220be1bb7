"""The train state on the devices: its shapes and shardings, and its initialization.

Only one train state exists at a time, whatever the number of arms. An arm owns its state, whose buffers its steps
donate. The next arm creates its own state from the initial parameters or from the checkpoint of its warm-up.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.reward import Params, abstract_params
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.mesh import optimizer_shardings, parameter_shardings, replicated
from dreamprm_jax.training.optimizer import make_meta_optimizer, make_optimizer


@dataclass(frozen=True)
class Setup:
    """What all arms of a run share."""

    config: TrainConfig
    model: DecoderConfig
    mesh: Mesh
    frozen: Params  # the frozen parameters; None in place of trained ones


def placed(tree: Any, shardings: Any) -> Any:
    """``tree``'s shapes and dtypes with shardings, given as a pytree or as one sharding for all leaves."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def placed_params(model: DecoderConfig, mesh: Mesh | AbstractMesh) -> Params:
    """Shapes, dtypes and shardings of all parameters."""
    return placed(abstract_params(model), parameter_shardings(model, mesh))


def abstract_state(
    config: TrainConfig,
    model: DecoderConfig,
    mesh: Mesh | AbstractMesh,
    labels: Parametrisation | None = None,
    phi: Any = (),
) -> TrainState:
    """Shapes, dtypes and shardings of a train state.

    Args:
      config: determines the optimizers.
      model: determines the parameters.
      mesh: the mesh; its devices need not exist.
      labels: the label parametrization of bi-level training.
      phi: its parameters, as arrays or abstract arrays.
    """
    params, _ = split_trainable(model, placed_params(model, mesh))
    shardings, optimizer = jax.tree.map(lambda leaf: leaf.sharding, params), make_optimizer(config)
    opt_state = placed(jax.eval_shape(optimizer.init, params), optimizer_shardings(optimizer, params, shardings, mesh))
    if labels is None:
        return TrainState(params, opt_state, (), ())
    meta_state = jax.eval_shape(make_meta_optimizer(config, labels).init, phi)
    return TrainState(params, opt_state, placed(phi, replicated(mesh)), placed(meta_state, replicated(mesh)))


def state_from_params(setup: Setup, params: Params) -> TrainState:
    """The state before the first step. Do not use ``params`` afterwards: the steps donate their buffers."""
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(setup.config, setup.model, setup.mesh).opt_state
    )

    def init(params: Params) -> Any:
        # Copied, because some optimizers keep the parameters themselves, and no donated buffer may occur twice.
        return jax.tree.map(jnp.copy, make_optimizer(setup.config).init(params))

    return TrainState(params, jax.jit(init, out_shardings=shardings)(params), (), ())


def with_labels(state: TrainState, setup: Setup, labels: Parametrisation, phi: Any) -> TrainState:
    """Adds label-side parameters and their optimizer's state to ``state``, on every device."""
    meta_state = make_meta_optimizer(setup.config, labels).init(phi)
    # Copied, because phi may belong to the caller.
    phi, meta_state = jax.device_put(jax.tree.map(jnp.array, (phi, meta_state)), replicated(setup.mesh))
    return state._replace(phi=phi, meta_opt_state=meta_state)


def without_dropout(model: DecoderConfig) -> DecoderConfig:
    """The model with LoRA's dropout off."""
    return dataclasses.replace(model, lora=model.lora and dataclasses.replace(model.lora, dropout=0.0))
