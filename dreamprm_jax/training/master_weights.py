"""Master weights: parameters in bfloat16 for the passes and the wires, their float32 copy with the optimizer.

An update smaller than 1/256 of a bfloat16 parameter is lost when it is added to it. The wrapped optimizer adds it to a
float32 copy instead, and gives the step that takes the narrow parameter to the rounded copy (mixed-precision training,
arXiv 1710.03740). It is a transformation like any other: hypergradients go through it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.schema import DataError


class MasterWeightsState(NamedTuple):
    """The float32 copy of every parameter, and the wrapped optimizer's state, whose moments are float32 too."""

    master: Any
    inner: Any


def _wide(tree: Any) -> Any:
    # A copy even where the dtype stays: the train state is donated, and no buffer may stand in it twice.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def with_master_weights(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optimizer`` on float32 copies of the parameters, which come out rounded to their own dtype."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> MasterWeightsState:
        master = _wide(params)
        return MasterWeightsState(master, optimizer.init(master))

    def update(
        updates: Any, state: MasterWeightsState, params: Any | None = None, **extra: Any
    ) -> tuple[Any, MasterWeightsState]:
        if params is None:
            raise ValueError("with_master_weights: update needs params")
        wide = jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), updates, state.master)
        steps, inner = optimizer.update(wide, state.inner, state.master, **extra)
        master = optax.apply_updates(state.master, steps)
        # In float32, so that param + step is the master itself, and apply_updates rounds it once.
        return jax.tree.map(lambda new, old: new - old.astype(new.dtype), master, params), MasterWeightsState(
            master, inner
        )

    return optax.GradientTransformationExtraArgs(init, update)


def check_needed(params: Any) -> None:
    """Checks that some trained parameter is narrower than its master would be.

    Raises:
      DataError: where all are float32.
    """
    if all(jnp.finfo(leaf.dtype).bits >= 32 for leaf in jax.tree.leaves(params)):
        raise DataError(
            "config.train.master_weights: every trained parameter is float32 already; "
            "set it to False, or config.model.param_dtype to 'bfloat16' (adapters and head are always float32)"
        )
