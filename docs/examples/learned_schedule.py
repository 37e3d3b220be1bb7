"""A learning rate for each of eight steps, learned by gradient descent through all of them. Seconds on a CPU.

    python docs/examples/learned_schedule.py

The rates are leaves of the optimizer's state, so their derivative is a leaf of ``start_gradient.opt_state``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.bilevel import make_meta_gradient

STEPS = 8


def scale_by_rates(rates):
    """Plain SGD whose rate at step k is ``rates[k]``, held in the state."""

    def update(gradient, state, params=None):
        rates, count = state
        return jax.tree.map(lambda g: -rates[count] * g, gradient), (rates, count + 1)

    return optax.GradientTransformation(lambda params: (rates, jnp.zeros((), jnp.int32)), update)


def loss(params, batch):
    """Least squares."""
    x, y = batch
    return jnp.mean(jnp.square(x @ params - y))


def main():
    """Returns (outer loss with the constant rate, with the learned rates, the rates)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 4)) * [2.0, 1.0, 0.5, 0.25], jnp.float32)
    y = x @ jnp.ones(4)
    inner_batch, outer_batch = jax.tree.map(lambda leaf: jnp.stack([leaf[None]] * STEPS), (x, y)), (x[None], y[None])
    rates = jnp.full(STEPS, 0.1)
    optimizer = scale_by_rates(rates)
    run = jax.jit(
        make_meta_gradient(lambda params, _, batch: loss(params, batch), loss, optimizer, start_gradient=True)
    )
    meta_optimizer = optax.adam(0.02)
    state, start = meta_optimizer.init(rates), jnp.zeros(4)
    losses = []
    for _ in range(200):
        result = run(start, (rates, jnp.zeros((), jnp.int32)), jnp.zeros(()), inner_batch, outer_batch)
        losses.append(float(result.outer_loss))
        update, state = meta_optimizer.update(result.start_gradient.opt_state[0], state)
        rates = rates + update
    return losses[0], losses[-1], rates


if __name__ == "__main__":
    before, after, rates = main()
    print(f"loss after {STEPS} steps: constant rate {before:.4f}, learned rates {after:.6f}\nrates: {rates}")
