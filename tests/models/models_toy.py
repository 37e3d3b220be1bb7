"""Makes parameters for tests without compiling the random initialization, which takes seconds."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.models.reward import abstract_params


def random_params(config, seed=0):
    """The pytree of ``init_params`` with random values of the same scale. LoRA's B is 0, as in that function."""
    rng = np.random.default_rng(seed)

    def leaf(path, like):
        name, values = path[-1].key, rng.standard_normal(like.shape)
        if name == "scale":
            values = 1 + 0.1 * values
        elif name == "lora_b":
            values = 0 * values
        elif name != "embedding":
            values = values / np.sqrt(config.hidden_size)
        return jnp.asarray(values, like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(config))
