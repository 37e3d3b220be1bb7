"""MAML on sinusoids (arXiv 1703.03400): an initialization from which one step fits a new task. Seconds on a CPU.

    python docs/examples/maml_sinusoid.py

The initialization is ``params`` itself: its gradient is ``start_gradient.params``, and ``jax.vmap`` runs over tasks.
"""

import jax
import jax.numpy as jnp
import optax

from dreamprm_jax.bilevel import make_meta_gradient

TASKS, SHOTS = 25, 10


def predict(params, x):
    """A network of one input, two hidden layers of 40 units and one output."""
    hidden = x[:, None]
    for kernel, bias in params[:-1]:
        hidden = jnp.tanh(hidden @ kernel + bias)
    return (hidden @ params[-1][0] + params[-1][1])[:, 0]


def loss(params, batch):
    """Mean squared error."""
    x, y = batch
    return jnp.mean(jnp.square(predict(params, x) - y))


def tasks(key):
    """(inner batch, outer batch) of ``TASKS`` sinusoids, each with 10 points to adapt on and 10 to test on."""
    amplitude, phase, x = jax.random.split(key, 3)
    amplitude = jax.random.uniform(amplitude, (TASKS, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(phase, (TASKS, 1), maxval=jnp.pi)
    x = jax.random.uniform(x, (TASKS, 2 * SHOTS), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return (x[:, None, None, :SHOTS], y[:, None, None, :SHOTS]), (x[:, None, SHOTS:], y[:, None, SHOTS:])


def main(steps=1500):
    """Returns the error after one step on new tasks, from the first and from the learned initialization."""
    sizes = [(1, 40), (40, 40), (40, 1)]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [
        (jax.random.normal(key, size) / size[0] ** 0.5, jnp.zeros(size[1]))
        for key, size in zip(keys, sizes, strict=True)
    ]
    inner = optax.sgd(0.01)
    run = make_meta_gradient(lambda params, _, batch: loss(params, batch), loss, inner, start_gradient=True)
    meta = optax.adam(2e-3)

    def adapted(params, key):
        many = jax.vmap(lambda near, far: run(params, inner.init(params), jnp.zeros(()), near, far))(*tasks(key))
        return jnp.mean(many.outer_loss), jax.tree.map(lambda leaf: leaf.mean(0), many.start_gradient.params)

    @jax.jit
    def step(params, state, key):
        _, gradient = adapted(params, key)
        update, state = meta.update(gradient, state)
        return optax.apply_updates(params, update), state

    error = jax.jit(lambda params: jnp.mean(jnp.stack([adapted(params, jax.random.key(-1 - n))[0] for n in range(4)])))
    before, state = float(error(params)), meta.init(params)
    for index in range(steps):
        params, state = step(params, state, jax.random.key(index))
    return before, float(error(params))


if __name__ == "__main__":
    print("error after one step on new tasks: {:.2f} from a random initialization, {:.2f} learned".format(*main()))
