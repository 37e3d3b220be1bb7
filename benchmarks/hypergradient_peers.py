"""Compares ``dreamprm_jax.bilevel`` with other libraries: time, memory, direction and exactness, K = 1 to 64.

    pip install torch optree graphviz && pip install --no-deps --ignore-requires-python betty-ml torchopt higher jaxopt
    python benchmarks/hypergradient_peers.py [--unroll 1,2,4] [--results FILE] [--write docs/bilevel.md]

All libraries train the same small decoder in full with Adam, each in a separate process on one core. Time: CPU seconds
of a window of K steps with its hypergradient, in plain steps of the same framework (median over rounds, the two
interleaved). Memory: the peak bytes of tensors during one call, above those before it, according to torch's profiler
or to XLA's buffer assignment (temporaries and results). Direction: cosine to the exact hypergradient. Exactness:
relative difference to torchopt in float64 on a smaller decoder. The last part compares implicit differentiation of
ridge regression with its closed form. ``--results`` keeps the measurements in a file, and a later call continues there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hypergradient_problem as problem
import numpy as np

from dreamprm_jax.bilevel.checkpoints import default_slots

UNROLLS = (1, 2, 4, 8, 16, 64)
OURS = ("mixed, gradients stored", "mixed, points stored", "mixed, 4 micro-batches", "mixed, forward reused")
ONLY = {"mixed, points stored": range(8, 1000), "mixed, forward reused": range(1, 2)}  # values of K
UNROLLED = (*OURS, "torchopt", "higher", "jaxopt")
LIBRARIES = (*UNROLLED, "sama", "betty darts", "betty sama")
TIMED = problem.Size(layers=2, width=64, tokens=32, batch=16, examples=64)
EXACT = problem.Size(layers=1, width=16, tokens=8, batch=4, examples=16, vocabulary=4)
RIDGE_STEPS = 40
ONE_SCHEDULE = {"xla_cpu_enable_concurrency_optimized_scheduler": False}  # one schedule for time and memory


@dataclass(frozen=True)
class Case:
    """The inputs of every library, as numpy arrays."""

    params: dict[str, np.ndarray]
    phi: np.ndarray  # logits of the labels
    batches: list[dict[str, np.ndarray]]
    meta: dict[str, np.ndarray]
    rate: float = 1e-3
    eps: float = 1e-12  # so small that its place in Adam does not matter: higher adds it in a different place
    warm: int = 3  # plain steps before the window


class Calls(NamedTuple):
    """The calls of a library that are measured."""

    plain: Callable[[], Any]
    call: Callable[[], np.ndarray]
    memory: Callable[[], int]  # peak bytes of ``call``


def make_case(size: problem.Size, dtype: Any) -> Case:
    """Noisy labels in the inner problem, clean labels in the outer problem."""
    rng = np.random.default_rng(0)
    params = {k: v.astype(dtype) for k, v in problem.initial_params(size).items() if not k.startswith("lora")}
    train = problem.examples(size, size.examples, size.flipped, seed=1)
    clean = problem.examples(size, size.batch, 0.0, seed=2)
    labels = np.clip(train.noisy, 0.05, 0.95).astype(dtype)
    rows = [rng.choice(size.examples, size.batch, replace=False) for _ in range(3 + max(UNROLLS))]
    batches = [{"tokens": train.tokens[index], "index": index} for index in rows]
    meta = {"tokens": clean.tokens, "truth": clean.truth.astype(dtype)}
    return Case(params, np.log(labels) - np.log1p(-labels), batches, meta)


# ---------------------------------------------------------------- the JAX side


def jax_calls(name: str, case: Case, unroll: int) -> Calls:
    """A plain step, and the hypergradient of the window."""
    import jax
    import jax.numpy as jnp
    import jaxopt
    import optax

    from dreamprm_jax.bilevel import make_meta_gradient, optimizers, split_batch, stack_batches

    optimizer = optax.chain(optimizers.scale_by_adam(eps=case.eps), optax.scale_by_learning_rate(case.rate))

    def inner(params: Any, phi: jax.Array, batch: Any) -> jax.Array:
        scores = problem.logits(jnp, params, batch["tokens"], problem.Size.heads)
        return problem.binary_cross_entropy(jnp, scores, jax.nn.sigmoid(phi[batch["index"]]))

    def outer(params: Any, batch: Any) -> jax.Array:
        scores = problem.logits(jnp, params, batch["tokens"], problem.Size.heads)
        return problem.binary_cross_entropy(jnp, scores, batch["truth"])

    @jax.jit
    def plain(params: Any, state: Any, phi: Any, batch: Any) -> Any:
        updates, state = optimizer.update(jax.grad(inner)(params, phi, batch), state, params)
        return optax.apply_updates(params, updates), state

    params, phi = jax.tree.map(jnp.asarray, (case.params, case.phi))
    batches, meta = jax.tree.map(jnp.asarray, (case.batches, case.meta))
    state = optimizer.init(params)
    for batch in batches[: case.warm]:
        params, state = plain(params, state, phi, batch)
    window = batches[case.warm : case.warm + unroll]
    if name == "jaxopt":
        solver = jaxopt.OptaxSolver(inner, optimizer, maxiter=unroll, jit=True, unroll=True)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *window)

        def unrolled(phi: Any, params: Any, state: Any, stacked: Any, meta: Any) -> Any:
            begin = solver.init_state(params, phi, jax.tree.map(lambda leaf: leaf[0], stacked))
            begin = begin._replace(internal_state=state)

            def step(carry: Any, batch: Any) -> Any:
                after = solver.update(*carry, phi, batch)
                return (after.params, after.state), None

            (end, _), _ = jax.lax.scan(step, (params, begin), stacked)
            return outer(end, meta)

        arguments = (phi, params, state, stacked, meta)
        run = jax.jit(jax.grad(unrolled)).lower(*arguments).compile(ONE_SCHEDULE)
        found = lambda result: result  # noqa: E731
    else:
        stored: Any = {"mixed, gradients stored": "gradients", "mixed, points stored": default_slots(unroll)}
        method = "sama" if name == "sama" else "mixed"
        made = make_meta_gradient(
            inner, outer, optimizer, method=method, checkpoints=stored.get(name), reuse_forward="reused" in name
        )
        micro = 4 if "micro" in name else 1
        arguments = (params, state, phi, stack_batches(window, micro), split_batch(meta, micro))
        run = jax.jit(made).lower(*arguments).compile(ONE_SCHEDULE)
        found = lambda result: result.hypergradient  # noqa: E731
    first = window[0]
    size = run.memory_analysis()
    return Calls(
        lambda: jax.block_until_ready(plain(params, state, phi, first)),
        lambda: np.asarray(found(jax.block_until_ready(run(*arguments)))),
        lambda: size.temp_size_in_bytes + size.output_size_in_bytes,
    )


def torch_calls(name: str, case: Case, unroll: int) -> Calls:
    """The same for a torch library."""
    import hypergradient_torch
    import torch

    torch.set_default_dtype(torch.float64 if case.phi.dtype == np.float64 else torch.float32)  # torchopt reads it

    world = hypergradient_torch.Window(case)
    params, optimizer = world.trained(case.warm)
    call = hypergradient_torch.methods()[name](world, unroll)
    return Calls(world.plain(params, optimizer, world.batches[0]), call, lambda: hypergradient_torch.peak_memory(call))


# ---------------------------------------------------------------- in a separate process


def measure(name: str, unroll: int) -> dict[str, Any]:
    """Time in plain steps, memory in bytes, the hypergradient, and the one in float64."""
    calls = torch_calls if name in ("torchopt", "higher") or "betty" in name else jax_calls
    plain, call, memory = calls(name, make_case(TIMED, np.float32), unroll)
    plain(), call()
    row: dict[str, Any] = {"memory": memory()}
    ratios, seconds = [], []
    for _ in range(max(2, 8 // unroll)):
        base = [cpu_seconds(plain) for _ in range(5)]
        seconds.append(float(np.median(base)))
        ratios.append(cpu_seconds(call) / seconds[-1])
    row |= {"time": float(np.median(ratios)), "plain_seconds": float(np.median(seconds))}
    row["hypergradient"] = call().astype(float).tolist()
    if name not in UNROLLED:
        return row
    import jax

    with jax.enable_x64(True):
        exact = calls(name, make_case(EXACT, np.float64), unroll).call()
    assert exact.dtype == np.float64
    return row | {"exact": exact.tolist()}


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_ridge() -> dict[str, float]:
    """Relative error of every implicit derivative against the closed form."""
    import hypergradient_torch
    import jax
    import jax.numpy as jnp
    import jaxopt
    import optax

    from dreamprm_jax.bilevel import CG, Neumann, make_meta_gradient

    rng = np.random.default_rng(0)
    x, y, held_x, held_y = (rng.normal(size=shape) for shape in ((60, 20), (60,), (40, 20), (40,)))

    def outer(w: Any, batch: Any) -> jax.Array:
        return 0.5 * jnp.mean(jnp.square(batch[0] @ w - batch[1]))

    def inner(w: Any, phi: Any, batch: Any) -> jax.Array:
        return outer(w, batch) + 0.5 * jnp.exp(phi) * jnp.sum(jnp.square(w))

    def best(phi: Any) -> jax.Array:
        return jnp.linalg.solve(x.T @ x / len(x) + jnp.exp(phi) * jnp.eye(20), x.T @ y / len(x))

    with jax.enable_x64(True):
        phi, resting = jnp.asarray(-2.0), optax.sgd(0.0)
        data = (x[None, None], y[None, None]), (held_x[None], held_y[None])
        found = {}
        for name, solver in (
            ("ours, CG", CG(RIDGE_STEPS, tolerance=1e-14)),
            ("ours, Neumann", Neumann(0.3, 10 * RIDGE_STEPS)),
        ):
            run = make_meta_gradient(inner, outer, resting, method="implicit", solver=solver)
            found[name] = float(jax.jit(run)(best(phi), resting.init(best(phi)), phi, *data).hypergradient)

        def solve(matvec: Any, b: Any) -> Any:
            return jaxopt.linear_solve.solve_cg(matvec, b, maxiter=RIDGE_STEPS, tol=1e-14)

        rooted = jaxopt.implicit_diff.custom_root(lambda w, phi: jax.grad(inner)(w, phi, (x, y)), solve=solve)
        solution = rooted(lambda w, phi: best(phi))
        found["jaxopt, CG"] = float(jax.grad(lambda phi: outer(solution(None, phi), (held_x, held_y)))(phi))
        exact = float(jax.grad(lambda phi: outer(best(phi), (held_x, held_y)))(phi))
        found |= hypergradient_torch.ridge((x, y), (held_x, held_y), -2.0, np.asarray(best(phi)), RIDGE_STEPS)
    return {name: abs(value / exact - 1) for name, value in found.items()}


def measure_replay(steps: int = 2000) -> dict[str, float]:
    """``make_replay`` through thousands of steps: time in units of the plain steps, and the number of stored points."""
    import jax
    import jax.numpy as jnp
    import optax

    from dreamprm_jax.bilevel import make_replay, optimizers

    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((64, 256, 64), (64, 256)))
    params = {"in": jnp.asarray(rng.normal(size=(64, 256)) / 8, jnp.float32), "out": jnp.zeros(256)}
    optimizer, phi = optimizers.adamw(1e-3), jnp.zeros(256)

    def error(params: Any, batch: Any) -> jax.Array:
        return jnp.square(jnp.tanh(batch[0] @ params["in"]) @ params["out"] - batch[1])

    def inner(params: Any, phi: Any, batch: Any) -> jax.Array:
        return jnp.mean(jax.nn.sigmoid(phi) * error(params, batch))

    @jax.jit
    def plain(params: Any, state: Any, batch: Any) -> Any:
        updates, state = optimizer.update(jax.grad(inner)(params, phi, batch), state, params)
        return optax.apply_updates(params, updates), state

    batches = [(x[k], y[k]) for k in range(64)]
    stacked = [jax.tree.map(lambda leaf: leaf[None], batch) for batch in batches]
    replay = make_replay(inner, lambda p, b: jnp.mean(error(p, b)), optimizer, lambda step: stacked[step % 64])

    def train() -> None:
        carry = params, optimizer.init(params)
        for step in range(steps):
            carry = plain(*carry, batches[step % 64])
        jax.block_until_ready(carry)

    def through(steps: int) -> Any:
        return jax.block_until_ready(replay(params, optimizer.init(params), phi, stacked[0], steps))

    train(), through(3)
    base = cpu_seconds(train)
    start = time.process_time()
    result = through(steps)
    assert bool(jnp.isfinite(result.hypergradient).all())
    spent = time.process_time() - start
    return {"time": spent / base, "stored": result.stored, "inner_steps": result.inner_steps / steps}


# ---------------------------------------------------------------- the tables


def tables(results: dict[str, Any], unrolls: list[int]) -> str:
    """The tables as Markdown; "-" if a row does not apply."""

    def share(field: str) -> Callable[[Any, int], float]:
        return lambda row, k: row[field] / results[f"torchopt {k}"][field]

    def difference(row: Any, k: int) -> float:
        left, right = np.array(row["exact"]), np.array(results[f"torchopt {k}"]["exact"])
        return float(np.linalg.norm(left - right) / np.linalg.norm(right))

    def cosine(row: Any, k: int) -> float:
        left, right = np.array(row["hypergradient"]), np.array(results[f"{OURS[0]} {k}"]["hypergradient"])
        return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))

    def grid(title: str, form: str, cell: Callable[[Any, int], float], names: Any) -> list[str]:
        def text(name: str, k: int) -> str:
            row = results.get(f"{name} {k}", {})
            if "over" in row:
                return f"over {row['over']:.0f} min"
            try:
                return form.format(cell(row, k))
            except KeyError:
                return "-"

        head = [f"| {title} | " + " | ".join(f"K = {k}" for k in unrolls) + " |", "|---" * (len(unrolls) + 1) + "|"]
        return [*head, *(f"| {name} | " + " | ".join(text(name, k) for k in unrolls) + " |" for name in names), ""]

    lines = grid("time, in own plain steps", "{:.1f}", lambda row, k: row["time"], LIBRARIES)
    lines += grid("memory, MB", "{:.0f}", lambda row, k: row["memory"] / 1e6, LIBRARIES)
    lines += grid("difference to torchopt, float64", "{:.0e}", difference, UNROLLED)
    lines += grid("cosine to exact", "{:.4f}", cosine, LIBRARIES)
    lines += grid("time, share of torchopt's", "{:.2f}", share("time"), OURS)
    lines += grid("memory, share of torchopt's", "{:.2f}", share("memory"), OURS)
    lines += ["| implicit, ridge regression | relative error |", "|---|---|"]
    lines += [f"| {name} | {error:.0e} |" for name, error in results["ridge"].items()]
    row = results["replay"]
    told = "`make_replay`, K = 2,000: {:.1f} times the plain steps; {:.0f} points stored, {:.1f} K inner steps in all"
    return "\n".join([*lines, "", told.format(*(row[k] for k in ("time", "stored", "inner_steps")))]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unroll", default=",".join(map(str, UNROLLS)), help="values of K, by comma")
    parser.add_argument("--results", type=Path, help="JSON file to continue")
    parser.add_argument("--write", type=Path, help="page whose tables between the markers are replaced")
    parser.add_argument("--limit", type=float, default=15, help="minutes for one row; what takes longer is so marked")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unrolls = [int(k) for k in options.unroll.split(",")]
    if options.measure:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any library counts the cores
        library, _, k = options.measure.rpartition(" ")
        alone = {"ridge": measure_ridge, "replay": measure_replay}
        print(json.dumps(measure(library, int(k)) if library else alone[k]()))
        return
    results = json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    for job in ["ridge", "replay", *(f"{name} {k}" for name in LIBRARIES for k in unrolls)]:
        library, _, k = job.rpartition(" ")
        if job in results or (library in ONLY and int(k) not in ONLY[library]):
            continue
        command = [sys.executable, __file__, f"--measure={job}"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60 * options.limit)
            row = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            row = {"over": options.limit}
        results[job] = row
        shown = [f"{key}={row[key]:.4g}" for key in ("time", "memory", "plain_seconds", "over") if key in row]
        print(job, *shown, file=sys.stderr, flush=True)
        if options.results:
            options.results.write_text(json.dumps(results))
    text = tables(results, unrolls)
    print(text)
    if options.write:
        start, end = "<!-- peers -->\n", "<!-- end of peers -->"
        before, rest = options.write.read_text().split(start)
        options.write.write_text(before + start + text + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
