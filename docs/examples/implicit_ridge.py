"""The penalty of ridge regression by implicit differentiation, against the choice of cross-validation.

    python docs/examples/implicit_ridge.py

The inner problem is solved in closed form; the hypergradient at its solution needs one linear solve, no unrolling.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.bilevel import CG, make_meta_gradient

FOLDS, FEATURES = 5, 20


def squared_error(params, batch):
    """Half the mean squared error."""
    x, y = batch
    return 0.5 * jnp.mean(jnp.square(x @ params - y))


def penalized(params, phi, batch):
    """With the penalty exp(phi)."""
    return squared_error(params, batch) + 0.5 * jnp.exp(phi) * jnp.sum(jnp.square(params))


def solve(phi, batch):
    """The minimum of ``penalized``."""
    x, y = batch
    return jnp.linalg.solve(x.T @ x / len(x) + jnp.exp(phi) * jnp.eye(FEATURES), x.T @ y / len(x))


def main():
    """Returns (log penalty found by gradient descent, by a grid search over the same folds)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(60, FEATURES)), jnp.float32)
    y = x @ jnp.asarray(rng.normal(size=FEATURES), jnp.float32) + jnp.asarray(rng.normal(size=60) * 3, jnp.float32)
    held = np.arange(60) % FOLDS
    train = jax.tree.map(lambda leaf: jnp.stack([leaf[held != fold] for fold in range(FOLDS)]), (x, y))
    test = jax.tree.map(lambda leaf: jnp.stack([leaf[held == fold] for fold in range(FOLDS)]), (x, y))

    resting = optax.sgd(0.0)  # the inner problem is solved already
    run = make_meta_gradient(penalized, squared_error, resting, method="implicit", solver=CG(iterations=30))

    def of_fold(phi, train, test):
        params = solve(phi, train)
        inner, outer = jax.tree.map(lambda leaf: leaf[None, None], train), jax.tree.map(lambda leaf: leaf[None], test)
        return run(params, resting.init(params), phi, inner, outer).hypergradient

    gradient = jax.jit(lambda phi: jnp.mean(jax.vmap(of_fold, (None, 0, 0))(phi, train, test)))
    meta = optax.adam(0.1)
    phi, state = jnp.zeros(()), meta.init(jnp.zeros(()))
    for _ in range(200):
        update, state = meta.update(gradient(phi), state)
        phi = phi + update

    grid = jnp.linspace(-5.0, 3.0, 801)
    error = jax.vmap(lambda phi: jnp.mean(jax.vmap(lambda a, b: squared_error(solve(phi, a), b))(train, test)))(grid)
    return float(phi), float(grid[jnp.argmin(error)])


if __name__ == "__main__":
    print("log penalty: {:.3f} by implicit differentiation, {:.3f} by cross-validation over a grid".format(*main()))
