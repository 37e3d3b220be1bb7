"""Compares methods of computing hypergradients: time, memory, direction, and how well they find wrong labels.

    python benchmarks/hypergradient.py [--rounds 15] [--quick]

Time: CPU seconds of one call (all threads), with methods interleaved, as the median over rounds, in units of the plain
training step of the same framework, with equal batches for both levels. Memory: temporaries of the compiled program, in
units of the plain step's; "trees" is the excess over the plain step, in trees of trained parameters. Cosine: to the
exact hypergradient after a warm-up, mean and minimum over batches. AUC: for finding the flipped labels by the sum of
each example's hypergradients over four passes.
betty-ml is measured if it is installed, through its own functions, at the points where it would call them.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypergradient_problem as problem
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.bilevel import make_meta_gradient, partition, split_batch, stack_batches

Row = dict[str, Any]

COST = problem.Size(examples=64)
DIRECTION = problem.Size(layers=2, width=48, tokens=16, examples=320)
QUICK = problem.Size(layers=1, width=32, tokens=24, batch=8, examples=64)
EPOCHS = 4  # passes over the data whose hypergradients the AUC adds up
META_BATCHES = 4  # size of the outer batch there, in inner batches (times are taken at equal batches)


@dataclass(frozen=True)
class Point:
    """A point in training where hypergradients are compared: the inputs of a call, and the state that torch needs."""

    params: Any
    opt_state: Any
    batch: dict[str, jax.Array]
    meta: dict[str, jax.Array]
    after: Any  # params after the inner step
    after_state: Any
    inner_gradient: Any


@dataclass(frozen=True)
class Setting:
    """One training setup: the trained leaves and the optimizer."""

    name: str
    trainable: Any
    frozen: Any
    optimizer: optax.GradientTransformation
    size: problem.Size
    train: problem.Examples
    clean: problem.Examples

    def inner(self, params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        """Soft labels sigmoid(phi_i)."""
        scores = problem.logits(jnp, params, batch["tokens"], self.size.heads)
        return problem.binary_cross_entropy(jnp, scores, jax.nn.sigmoid(phi[batch["index"]]))

    def outer(self, params: Any, batch: Any) -> jax.Array:
        """Clean labels."""
        scores = problem.logits(jnp, params, batch["tokens"], self.size.heads)
        return problem.binary_cross_entropy(jnp, scores, batch["truth"])

    def phi(self) -> jax.Array:
        """The initial label table: noisy labels clipped to [0.05, 0.95], as logits."""
        labels = jnp.clip(jnp.asarray(self.train.noisy), 0.05, 0.95)
        return jnp.log(labels) - jnp.log1p(-labels)

    def inner_batch(self, indices: np.ndarray) -> dict[str, jax.Array]:
        """Rows of the training examples."""
        return {"tokens": jnp.asarray(self.train.tokens[indices]), "index": jnp.asarray(indices)}

    def meta_batch(self, indices: np.ndarray) -> dict[str, jax.Array]:
        """Rows of the clean examples."""
        return {"tokens": jnp.asarray(self.clean.tokens[indices]), "truth": jnp.asarray(self.clean.truth[indices])}

    def function(self, method: str, meta: bool = True) -> Callable[..., Any]:
        """The meta-gradient as (frozen, params, opt_state, phi, batch, meta) -> (params, opt_state, hypergradient)."""
        made = make_meta_gradient(self.inner, self.outer, self.optimizer, method=method)  # type: ignore[arg-type]

        def call(frozen: Any, params: Any, opt_state: Any, phi: Any, batch: Any, outer_batch: Any) -> Any:
            outer_batch = split_batch(outer_batch)
            result = made(params, opt_state, phi, batch, outer_batch, do_meta=meta, frozen=frozen)
            return (result.params, result.opt_state) + ((result.hypergradient,) if meta else ())

        return call


def settings(size: problem.Size) -> list[Setting]:
    """Full and LoRA training with the authors' inner optimizer: clip 1.0, AdamW."""
    params = jax.tree.map(jnp.asarray, problem.initial_params(size))
    train = problem.examples(size, size.examples, size.flipped, seed=1)
    clean = problem.examples(size, 8 * size.batch, 0.0, seed=2)
    made = []
    for name, mine, rate in (("full", problem.is_base, 1e-3), ("lora", problem.is_lora, 1e-2)):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01, eps_root=1e-16))
        made.append(Setting(name, *partition(params, mine), optimizer, size, train, clean))
    return made


# ---------------------------------------------------------------- time and memory


def compile_all(setting: Setting) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every timed program with its arguments. The compiler flag makes ``memory_analysis`` comparable between them."""
    rng = np.random.default_rng(0)
    rows = {k: rng.integers(0, setting.size.examples, k * setting.size.batch) for k in (1, 2)}
    meta = setting.meta_batch(np.arange(setting.size.batch))
    programs = {}
    for name, method, unroll, with_meta in (
        ("plain", "mixed", 1, False),
        ("mixed", "mixed", 1, True),
        ("reverse", "reverse", 1, True),
        ("finite difference", "finite_difference", 1, True),
        ("sama", "sama", 1, True),
        ("mixed K=2", "mixed", 2, True),
        ("reverse K=2", "reverse", 2, True),
    ):
        batch = jax.tree.map(
            lambda leaf, k=unroll: leaf.reshape(k, 1, -1, *leaf.shape[1:]), setting.inner_batch(rows[unroll])
        )
        state = setting.optimizer.init(setting.trainable)
        arguments = (setting.frozen, setting.trainable, state, setting.phi(), batch, meta)
        lowered = jax.jit(setting.function(method, with_meta)).lower(*arguments)
        options = {"xla_cpu_enable_concurrency_optimized_scheduler": False} if jax.default_backend() == "cpu" else {}
        programs[name] = (lowered.compile(compiler_options=options), arguments)
    return programs


def cpu_times(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of a call: CPU time of the process, or wall-clock time with an accelerator."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


# ---------------------------------------------------------------- direction


def trajectory(setting: Setting, warm_up: int, epochs: int = EPOCHS) -> list[Point]:
    """Trains on the noisy labels, then passes over the data and records one point per batch."""
    plain = jax.jit(setting.function("mixed", meta=False))
    gradient = jax.jit(
        lambda frozen, params, phi, batch: jax.grad(
            lambda params: setting.inner({**_held(params), **_held(frozen)}, phi, batch)
        )(params)
    )
    rng = np.random.default_rng(3)
    params, state, phi = setting.trainable, setting.optimizer.init(setting.trainable), setting.phi()
    size = setting.size
    points = []
    passes = np.concatenate([rng.permutation(size.examples) for _ in range(epochs)]).reshape(-1, size.batch)
    for index in range(warm_up + len(passes)):
        rows = rng.integers(0, size.examples, size.batch) if index < warm_up else passes[index - warm_up]
        batch = setting.inner_batch(rows)
        meta = setting.meta_batch(rng.choice(len(setting.clean.truth), META_BATCHES * size.batch, replace=False))
        after, after_state = plain(setting.frozen, params, state, phi, stack_batches([batch]), meta)
        if index >= warm_up:
            inner_gradient = gradient(setting.frozen, params, phi, batch)
            points.append(Point(params, state, batch, meta, after, after_state, inner_gradient))
        params, state = after, after_state
    return points


def _held(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in tree.items() if leaf is not None}


def directions(setting: Setting, points: list[Point], peers: dict[str, Callable[..., Any]]) -> dict[str, Row]:
    """Cosine to the exact hypergradient and AUC of every method over all points."""
    methods: dict[str, Callable[[Point], np.ndarray]] = {}
    for name, method in (
        ("reverse", "reverse"),
        ("mixed", "mixed"),
        ("finite difference", "finite_difference"),
        ("sama", "sama"),
    ):
        compiled = jax.jit(setting.function(method))

        def call(point: Point, compiled: Any = compiled) -> np.ndarray:
            batch = stack_batches([point.batch])
            arguments = (setting.frozen, point.params, point.opt_state, setting.phi(), batch, point.meta)
            return np.asarray(compiled(*arguments)[2])

        methods[name] = call
    methods |= {name: lambda point, peer=peer: peer(setting, point)() for name, peer in peers.items()}
    # A label is probably wrong if moving it to the other side would help: sign of the label times the hypergradient.
    side = 2 * setting.train.noisy - 1
    rows: dict[str, Row] = {}
    exact: list[np.ndarray] = []
    for name, method in methods.items():
        values = [method(point) for point in points]
        exact = exact or values
        cosines = [_cosine(value, reference) for value, reference in zip(values, exact, strict=True)]
        score = np.sum(values, axis=0) * side
        rows[name] = {"cosine": np.mean(cosines), "lowest": np.min(cosines), "auc": auc(score, setting.train.flipped)}
    return rows


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """P(score of a positive > score of a negative)."""
    return float((score[positive][:, None] > score[~positive][None, :]).mean())


# ---------------------------------------------------------------- the table


def measure(setting: Setting, small: Setting, rounds: int, warm_up: int) -> dict[str, Row]:
    """All rows of one setting: time and memory at its size, direction at a smaller size."""
    try:
        import hypergradient_torch as peer
    except ImportError as error:
        print(f"betty-ml is left out: {error}")
        peers, torch_calls = {}, {}
    else:
        peers = {name: functools.partial(peer.betty_at, name) for name in peer.BETTY}
        torch_calls = {"plain (torch)": peer.plain_at}
    rows = directions(small, trajectory(small, warm_up), peers)
    start = trajectory(setting, warm_up=2, epochs=1)[0]
    programs = compile_all(setting)
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda program=program, arguments=arguments: jax.block_until_ready(program(*arguments)))
        for name, (program, arguments) in programs.items()
    }
    calls |= {name: make(setting, start) for name, make in (torch_calls | peers).items()}
    seconds = cpu_times(calls, rounds)
    tree = sum(leaf.nbytes for leaf in jax.tree.leaves(setting.trainable))
    peak = {name: program.memory_analysis().temp_size_in_bytes for name, (program, _) in programs.items()}
    for name in calls:
        # A peer's hypergradient comes after a plain step of its own framework.
        in_torch = name in torch_calls or name in peers
        base = seconds["plain (torch)" if in_torch else "plain"]
        row = rows.setdefault(name, {})
        row["time"] = (seconds[name] + (base if name in peers else 0.0)) / base
        if name in peak:
            row["memory"] = peak[name] / peak["plain"]
            row["trees"] = (peak[name] - peak["plain"]) / tree
    return rows


COLUMNS = {
    "time": "{:.2f}",
    "memory": "{:.2f}",
    "trees": "{:+.1f}",
    "cosine": "{:.4f}",
    "lowest": "{:.3f}",
    "auc": "{:.3f}",
}


def main() -> None:
    """Prints one table per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--warm-up", type=int, default=60, help="inner steps before the points of comparison")
    parser.add_argument("--setting", choices=("full", "lora"), help="only this one")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that everything runs")
    options = parser.parse_args()
    cost, direction = (QUICK, QUICK) if options.quick else (COST, DIRECTION)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}\ntime and memory: {cost}\ndirection: {direction}")
    for setting, small in zip(settings(cost), settings(direction), strict=True):
        if options.setting not in (None, setting.name):
            continue
        rows = measure(setting, small, options.rounds, options.warm_up)
        count = sum(leaf.size for leaf in jax.tree.leaves(setting.trainable))
        print(f"\n{setting.name}: {count:,} trained parameters; plain step = 1")
        print(f"{'method':<24}" + "".join(f"{name:>9}" for name in COLUMNS))
        for name, row in rows.items():
            cells = [form.format(row[column]) if column in row else "-" for column, form in COLUMNS.items()]
            print(f"{name:<24}" + "".join(f"{cell:>9}" for cell in cells))


if __name__ == "__main__":
    main()
