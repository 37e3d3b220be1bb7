"""Dataset distillation (arXiv 1811.10959): ten images from which a classifier learns scikit-learn's digits.

    python docs/examples/distill_digits.py

The meta-parameters are the training data themselves; each window trains a new classifier on them for ten steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from dreamprm_jax.bilevel import make_meta_gradient

STEPS, RATE, BATCH = 10, 0.3, 256


def logits(params, x):
    """A linear classifier; images [B, 64] to [B, 10]."""
    return x @ params["kernel"] + params["bias"]


def cross_entropy(params, x, y):
    """Mean over the batch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def inner_loss(params, images, labels):
    """On the ten distilled images."""
    return cross_entropy(params, images, labels)


def outer_loss(params, batch):
    """On real images."""
    return cross_entropy(params, *batch)


def main(windows=300):
    """Returns (test accuracy after ten steps on one real image a class, on the distilled ones, the images [10, 64])."""
    x, y = (array[np.random.default_rng(0).permutation(1797)] for array in load_digits(return_X_y=True))
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y)
    train, test = (x[:1200], y[:1200]), (x[1200:], y[1200:])
    labels = jnp.arange(10)
    first = jnp.stack([train[0][train[1] == digit][0] for digit in range(10)])
    inner, meta = optax.sgd(RATE), optax.adam(0.02)
    run = make_meta_gradient(inner_loss, outer_loss, inner)
    batches = jnp.broadcast_to(labels, (STEPS, 1, 10))  # [K, M, B]: the batch is the labels, phi the images

    def start(key):
        return {"kernel": 0.1 * jax.random.normal(key, (64, 10)), "bias": jnp.zeros(10)}

    def window(images, key, rows):
        params = start(key)
        return run(params, inner.init(params), images, batches, (train[0][rows][None], train[1][rows][None]))

    @jax.jit
    def step(images, state, key):
        params_key, rows_key = jax.random.split(key)
        rows = jax.random.choice(rows_key, 1200, (BATCH,), replace=False)
        update, state = meta.update(window(images, params_key, rows).hypergradient, state)
        return images + update, state

    @jax.jit
    def accuracy(images):
        ends = jax.vmap(lambda key: window(images, key, jnp.arange(BATCH)).params)(
            jax.random.split(jax.random.key(7), 5)
        )
        return jnp.mean(jax.vmap(lambda params: jnp.argmax(logits(params, test[0]), -1) == test[1])(ends))

    images, state = first, meta.init(first)
    for index in range(windows):
        images, state = step(images, state, jax.random.key(index))
    return float(accuracy(first)), float(accuracy(images)), images


if __name__ == "__main__":
    real, distilled, _ = main()
    print(f"test accuracy after {STEPS} steps: {real:.2f} on ten real images, {distilled:.2f} on ten distilled ones")
