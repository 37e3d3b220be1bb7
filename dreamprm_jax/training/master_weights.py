"""Master weights: bfloat16 parameters for computation and communication, with float32 copies in the optimizer's state.

An update smaller than 1/256 of a bfloat16 parameter is lost when it is added to the parameter. The wrapped optimizer
adds it to a float32 copy instead, and returns the update that changes the parameter to the rounded copy
(mixed-precision training, arXiv 1710.03740). Hypergradients go through it as through any optax transformation.
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
    # A copy even if the dtype stays the same: the train state is donated and must not contain a buffer twice.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def with_master_weights(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optimizer`` on float32 copies of the parameters; the parameters are these copies in their own dtype."""
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
        # In float32, so that param + step equals the master weight, and apply_updates rounds it once.
        return jax.tree.map(lambda new, old: new - old.astype(new.dtype), master, params), MasterWeightsState(
            master, inner
        )

    return optax.GradientTransformationExtraArgs(init, update)


def check_needed(params: Any) -> None:
    """Checks that some trained parameter is narrower than float32.

    Raises:
      DataError: if all are float32.
    """
    if all(jnp.finfo(leaf.dtype).bits >= 32 for leaf in jax.tree.leaves(params)):
        raise DataError(
            "config.train.master_weights: every trained parameter is float32 already; "
            "set it to False, or config.model.param_dtype to 'bfloat16' (adapters and head are always float32)"
        )
