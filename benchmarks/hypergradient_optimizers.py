"""The table of all optax optimizers in docs/bilevel.md: is ``mixed`` exact through each of them?

    python benchmarks/hypergradient_optimizers.py [--results FILE] [--write docs/bilevel.md] [NAME ...]

Each optimizer first takes six steps. Then ``mixed`` is compared with ``reverse``, and with a fourth-order central
difference of L_out(theta_K(phi)) in one direction of phi: in float64, at K = 1, 2 and 5, without and with a frozen
parameter, two micro-batches, auxiliary outputs and keys (dropout). Figures are the largest relative differences of the
six cases. ``--results`` keeps them in a file; optimizers in this file are not tried again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from dreamprm_jax.bilevel import make_meta_gradient, stack_batches
from dreamprm_jax.bilevel.problem import Point, Signal, optimizer_step

CASES = tuple((full, unroll) for full in (False, True) for unroll in (1, 2, 5))
EXACT, DIFFERENCE = 1e-8, 1e-4  # the largest relative difference to reverse mode, and to the finite difference
QUICK = {"xla_backend_optimization_level": 0}  # every program runs a few times

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


def arguments(full: bool, unroll: int) -> tuple[Any, ...]:
    """(params, frozen, phi, inner batch, outer batch) of a small MLP with learned targets."""
    rng = np.random.default_rng(0)
    params = {"in": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.asarray(rng.normal(size=(4, 2)))}
    frozen = {"in": None, "out": params["out"]} if full else None
    params = params | {"out": None} if full else params
    batches = stack_batches(list(jnp.asarray(rng.normal(size=(5, 6, 3)))), 2 if full else 1)
    return params, frozen, jnp.asarray(rng.normal(size=2)), batches[:unroll], jnp.asarray(rng.normal(size=(1, 6, 3)))


def losses(full: bool) -> tuple[Any, Any]:
    """Squared errors to phi and to 0.3; with dropout and an auxiliary output in the full case."""

    def error(params: Any, target: Any, x: jax.Array, key: Any) -> Any:
        if key is not None:
            x = x * jax.random.bernoulli(key, 0.7, x.shape)
        predictions = jnp.tanh(x @ params["in"]) @ params["out"]
        value = jnp.mean(jnp.square(predictions - target))
        return value if key is None else (value, {"largest": jnp.max(predictions)})

    def inner(params: Any, phi: jax.Array, x: jax.Array, key: Any = None) -> Any:
        return error(params, phi, x, key)

    def outer(params: Any, x: jax.Array, key: Any = None) -> Any:
        return error(params, 0.3, x, key)

    return inner, outer


def try_case(optimizer: Any, full: bool, unroll: int) -> dict[str, Any]:
    """The differences of one case, or the reason why there are none."""
    params, frozen, phi, batch, held = arguments(full, unroll)
    inner, outer = losses(full)

    def value_fn(params: Any) -> jax.Array:
        whole = (
            jax.tree.map(lambda a, b: b if a is None else a, params, frozen, is_leaf=lambda x: x is None)
            if full
            else params
        )
        return losses(False)[0](whole, phi, batch[0].reshape(6, 3))

    @jax.jit
    def warm(point: Point) -> Point:
        value, gradient = jax.value_and_grad(value_fn)(point.params)
        return optimizer_step(optimizer, point, Signal(gradient, value), value_fn)

    point = Point(params, optimizer.init(params))
    for _ in range(6):
        point = warm(point)

    def run(method: Any) -> Any:
        made = make_meta_gradient(inner, outer, optimizer, method=method, has_aux=full, has_rng=full)
        key = jax.random.key(1) if full else None
        return jax.jit(lambda phi: made(*point, phi, batch, held, frozen=frozen, rng=key), compiler_options=QUICK)

    reverse, values, refused = run("reverse"), {}, []
    for method, compiled in (("mixed", run("mixed")), ("reverse", reverse)):
        try:
            values[method] = np.asarray(compiled(phi).hypergradient)
        except ValueError:
            refused.append(f"`{method}`")
    if refused:
        return {"verdict": f"refused by {' and '.join(refused)}"}
    expected, found = values["reverse"], values["mixed"]
    if not np.isfinite(expected).all():
        return {"verdict": f"not finite at K = {unroll}, in reverse mode too"}
    if not expected.any() and not found.any():
        return {"verdict": "zero by nature"}
    size = np.linalg.norm(found)
    # dog, prodigy and dadapt begin with steps of 1e-6: the loss must move by more than its rounding.
    direction, step = np.array([0.8, -0.6]), 1e-5 if size > 1e-6 else 1e-2
    moved = [float(reverse(phi + k * step * direction).outer_loss) for k in (-2, -1, 1, 2)]
    slope = np.dot([1, -8, 8, -1], moved) / (12 * step)
    return {
        "reverse": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "difference": float(abs(slope - found @ direction) / size),
    }


def try_one(make: Any) -> dict[str, Any]:
    """The row of one optimizer."""
    cases = []
    try:
        with jax.enable_x64(True):
            optimizer = make()
            for full, unroll in CASES:
                cases.append(try_case(optimizer, full, unroll))
                if "verdict" in cases[-1]:
                    return cases[-1]
    except Exception as error:
        return {"verdict": f"refused: {type(error).__name__}: {str(error).splitlines()[0][:90]}"}
    row = {name: max(case[name] for case in cases) for name in ("reverse", "difference")}
    good = row["reverse"] < EXACT and row["difference"] < DIFFERENCE
    return row | {"verdict": "exact" if good else "WRONG"}


def optimizers() -> dict[str, Any]:
    """Maps the name of each optimizer to the function that makes it."""
    rows = {name: getattr(optax, name) for name in BY_RATE}
    rows = {name: (lambda make=make, name=name: make(RATE, *_needed(name))) for name, make in rows.items()}
    for name in CONTRIB:
        make = getattr(contrib, name)
        rows[f"contrib.{name}"] = lambda make=make, name=name: make() if name == "cocob" else make(RATE)
    return dict(sorted((rows | SETTINGS).items()))


def table(results: dict[str, dict[str, Any]]) -> str:
    """The table as Markdown, with one row per verdict."""
    verdicts: dict[str, list[str]] = {}
    for name, row in sorted(results.items()):
        verdicts.setdefault(row["verdict"], []).append(f"`{name}`")
    lines = ["| verdict | optimizers |", "|---|---|"]
    for verdict, names in sorted(verdicts.items(), key=lambda item: -len(item[1])):
        worst = [
            max(r[k] for r in results.values() if r["verdict"] == verdict)
            for k in ("reverse", "difference")
            if verdict == "exact"
        ]
        told = "exact (to `reverse` {:.0e}, to the finite difference {:.0e})".format(*worst) if worst else verdict
        lines.append(f"| {len(names)} {told} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints one row per optimizer, and writes the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these optimizers")
    parser.add_argument("--results", type=Path, help="JSON file to continue")
    parser.add_argument("--write", type=Path, help="page whose table between the markers is replaced")
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    warnings.simplefilter("ignore")
    for name, make in optimizers().items():
        if name in results or (options.names and name not in options.names):
            continue
        results[name] = row = try_one(make)
        figures = [f"{row[key]:.0e}" if key in row else "-" for key in ("reverse", "difference")]
        print(f"{name:<32}{figures[0]:>8}{figures[1]:>8}  {row['verdict']}", flush=True)
        if options.results:
            options.results.write_text(json.dumps(results, indent=1))
    if options.write:
        text = options.write.read_text()
        start, end = "<!-- optimizers -->\n", "<!-- end of optimizers -->"
        before, rest = text.split(start)
        options.write.write_text(before + start + table(results) + end + rest.split(end)[1])


def _needed(name: str) -> tuple[Any, ...]:
    return (0.01, 0.1, 0) if name == "noisy_sgd" else ()


if __name__ == "__main__":
    main()
