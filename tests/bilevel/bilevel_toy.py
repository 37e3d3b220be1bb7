"""Small problems for the bilevel tests: an MLP, a LoRA-like split of it, and learned soft labels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.bilevel import stack_batches

FEATURES, HIDDEN, RANK, STEPS = 5, 6, 2, 12

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.05, eps_root=1e-16),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1, eps_root=1e-16),
    "clip+adamw+schedule": lambda: optax.chain(
        optax.clip_by_global_norm(0.02),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.01, 0.1, 2, 8), weight_decay=0.1, eps_root=1e-16),
    ),
}


def params(seed: int = 0) -> dict[str, Any]:
    """An MLP with a LoRA pair beside its first weight."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))

    return {
        "dense": normal(FEATURES, HIDDEN),
        "lora": {"a": normal(FEATURES, RANK), "b": normal(RANK, HIDDEN)},
        "bias": normal(HIDDEN),
        "head": normal(HIDDEN),
    }


def is_lora(path: tuple[str, ...], leaf: Any) -> bool:
    """Selects the leaves that LoRA trains: the pair and the head."""
    return path[0] in ("lora", "head")


def logits(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Maps inputs [B, F] to logits [B]."""
    hidden = x @ params["dense"] + (x @ params["lora"]["a"]) @ params["lora"]["b"] + params["bias"]
    return jnp.tanh(hidden) @ params["head"]


def inner_loss(params: dict[str, Any], phi: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy with the soft labels sigmoid(phi_i) of a label table."""
    targets = jax.nn.sigmoid(phi[batch["index"]])
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), targets))


def outer_loss(params: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy with clean labels."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, batch["x"]), batch["y"]))


def phi(seed: int = 1) -> jax.Array:
    """Label logits [STEPS]."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=STEPS))


def inner_batch(unroll: int = 1, rows: int = 8, seed: int = 2) -> dict[str, jax.Array]:
    """A batch with leaves of shape [K, 1, B, ...]."""
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(unroll, 1, rows, FEATURES))),
        "index": jnp.asarray(rng.integers(0, STEPS, (unroll, 1, rows))),
    }


def split_inner(batch: dict[str, jax.Array], count: int) -> dict[str, jax.Array]:
    """Splits leaves [K, 1, B, ...] into [K, count, B / count, ...]."""
    return stack_batches([jax.tree.map(lambda leaf, k=k: leaf[k, 0], batch) for k in range(len(batch["x"]))], count)


def outer_batch(rows: int = 8, seed: int = 3) -> dict[str, jax.Array]:
    """Clean examples, with leaves of shape [1, B, ...]."""
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(1, rows, FEATURES))),
        "y": jnp.asarray(rng.integers(0, 2, (1, rows)).astype(float)),
    }


def small_params() -> dict[str, jax.Array]:
    """Two leaves. Programs on them compile ten times faster than those on the MLP."""
    rng = np.random.default_rng(0)
    return {"kernel": jnp.asarray(rng.normal(size=(3, 2))), "scale": jnp.asarray(1 + 0.3 * rng.normal(size=2))}


def small_predictions(params: Any, x: jax.Array) -> jax.Array:
    """Maps inputs [B, 3] to predictions [B, 2]."""
    return jnp.tanh(x @ params["kernel"]) * params["scale"]


def small_inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
    """Squared error to learned targets, plus a term in phi that affects the loss but not its gradient in params."""
    return jnp.mean(jnp.square(small_predictions(params, x) - phi)) + 0.1 * jnp.sum(jnp.square(phi))


def small_outer(params: Any, x: jax.Array) -> jax.Array:
    """Squared error to the target 0.3."""
    return jnp.mean(jnp.square(small_predictions(params, x) - 0.3))


def small_data(unroll: int, micro_batches: int = 1) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(phi [2], inner batch [K, M, 4, 3], outer batch [1, 4, 3])."""
    rng = np.random.default_rng(4)
    shapes = (2,), (unroll, micro_batches, 4, 3), (1, 4, 3)
    phi, inner, outer = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    return phi, inner, outer


def relative_error(value: Any, reference: Any) -> float:
    """|value - reference| / |reference| over whole trees."""
    pairs = list(zip(jax.tree.leaves(value), jax.tree.leaves(reference), strict=True))
    difference = sum(float(jnp.sum(jnp.square(left - right))) for left, right in pairs)
    return float(np.sqrt(difference / sum(float(jnp.sum(jnp.square(right))) for _, right in pairs)))


def warm_state(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """An optimizer state as after three steps, with positive moments and counters at 3."""
    rng = np.random.default_rng(7)

    def warm(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.uniform(0.01, 0.1, leaf.shape), leaf.dtype)
        return jnp.full_like(leaf, 3)

    return jax.tree.map(warm, optimizer.init(params))


def cosine(left: jax.Array, right: jax.Array) -> float:
    """Cosine similarity of two vectors."""
    return float(left @ right / (jnp.linalg.norm(left) * jnp.linalg.norm(right)))
