"""The table of all optax optimizers in docs/bilevel.md: ``mixed`` against ``reverse`` in float64, at K = 1 and 2.

    python benchmarks/hypergradient_optimizers.py [NAME ...]

Each optimizer first takes six steps. ``exact``: relative difference below 1e-8. ``zero``: both are exactly zero.
``not finite``: reverse mode gives the same.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from dreamprm_jax.bilevel import make_meta_gradient
from dreamprm_jax.bilevel.problem import Point, Signal, optimizer_step

RATE = 0.05
BY_RATE = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "fromage",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "novograd",
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "signum",
    "sm3",
    "yogi",
]
CONTRIB = [
    "acprop",
    "ademamix",
    "adopt",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "madgrad",
    "momo",
    "momo_adam",
    "muon",
    "prodigy",
]
SETTINGS: dict[str, Any] = {
    "adam(eps_root=1e-16)": lambda: optax.adam(RATE, eps_root=1e-16),
    "sgd(momentum=0.9)": lambda: optax.sgd(RATE, momentum=0.9),
    "rmsprop(centered=True)": lambda: optax.rmsprop(RATE, centered=True),
    "polyak_sgd": lambda: optax.polyak_sgd(scaling=RATE),
    "lbfgs": lambda: optax.lbfgs(RATE),
    "lbfgs(linesearch=None)": lambda: optax.lbfgs(RATE, memory_size=2, linesearch=None),
    "contrib.reduce_on_plateau": lambda: optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau()),
    "contrib.schedule_free_sgd": lambda: contrib.schedule_free_sgd(RATE),
    "contrib.schedule_free_adamw": lambda: contrib.schedule_free_adamw(RATE),
    "contrib.sophia": lambda: contrib.sophia(RATE),
    "contrib.simplified_ademamix": lambda: contrib.simplified_ademamix(RATE),
}


def problem() -> tuple[Any, ...]:
    """(params, phi, inner batches of two steps, outer batch) of a small MLP with learned targets."""
    rng = np.random.default_rng(0)
    params = {"in": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.asarray(rng.normal(size=(4, 2)))}
    batch = jnp.asarray(rng.normal(size=(2, 1, 6, 3)))
    return params, jnp.asarray(rng.normal(size=(6, 2))), batch, jnp.asarray(rng.normal(size=(1, 6, 3)))


def inner(params: Any, phi: jax.Array, x: jax.Array) -> jax.Array:
    """Squared error to phi."""
    return jnp.mean(jnp.square(jnp.tanh(x @ params["in"]) @ params["out"] - phi))


def outer(params: Any, x: jax.Array) -> jax.Array:
    """Squared error to 0.3."""
    return jnp.mean(jnp.square(jnp.tanh(x @ params["in"]) @ params["out"] - 0.3))


def try_one(optimizer: Any) -> str:
    """The row's verdict."""
    params, phi, batch, held = problem()
    value_fn = lambda params: inner(params, phi, batch[0, 0])  # noqa: E731
    state = optimizer.init(params)
    for _ in range(6):
        value, gradient = jax.value_and_grad(value_fn)(params)
        params, state = optimizer_step(optimizer, Point(params, state), Signal(gradient, value), value_fn)
    errors = []
    for unroll in (1, 2):
        run = {m: jax.jit(make_meta_gradient(inner, outer, optimizer, method=m)) for m in ("reverse", "mixed")}
        expected = np.asarray(run["reverse"](params, state, phi, batch[:unroll], held).hypergradient)
        if not np.isfinite(expected).all():
            return f"not finite at K = {unroll}, in reverse mode too"
        try:
            found = np.asarray(run["mixed"](params, state, phi, batch[:unroll], held).hypergradient)
        except ValueError:
            return "refused by `mixed`; `reverse` works"
        if not expected.any():
            return "zero by nature"
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return f"exact ({max(errors):.0e})" if max(errors) < 1e-8 else f"WRONG ({max(errors):.0e})"


def main() -> None:
    """Prints the table."""
    rows = {name: getattr(optax, name) for name in BY_RATE}
    rows = {name: (lambda make=make, name=name: make(RATE, *_needed(name))) for name, make in rows.items()}
    for name in CONTRIB:
        make = getattr(contrib, name)
        rows[f"contrib.{name}"] = lambda make=make, name=name: make() if name == "cocob" else make(RATE)
    rows |= SETTINGS
    warnings.simplefilter("ignore")
    print("| optimizer | result |\n|---|---|")
    for name, make in sorted(rows.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            with jax.enable_x64(True):
                verdict = try_one(make())
        except Exception as error:
            verdict = f"refused: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
        print(f"| `{name}` | {verdict} |", flush=True)


def _needed(name: str) -> tuple[Any, ...]:
    return (0.01, 0.1, 0) if name == "noisy_sgd" else ()


if __name__ == "__main__":
    main()
