"""Step times on TPU v5p by the TPU compiler's own cost model, by part, and the share of the peak. No TPU is needed.

    pip install libtpu
    python benchmarks/tpu_cost_model.py [--only=7b,3b] [--steps=plain,bi-level] [--before] [--output=DIR]

Each step of the trainer is compiled ahead of time by libtpu, with the flags of launch/env.sh, and the compiler's cycles
are summed (``dreamprm_jax/planning/cost_model.py``). Kernels are compiled alone and counted by the bundles of their
schedule. ``--before`` compiles the same steps without: plain attention by whole chunks, ``remat="full"``, no flags.
``--flag=`` and ``--set=`` try others. MFU counts every matrix product of the model once, and half of the score matrix.
Minutes a step on one core; with --output every result is kept, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dreamprm_jax.training.chips import CHIPS

REPOSITORY = Path(__file__).resolve().parents[1]
PEAK = CHIPS["v5p"].peak_flops
CORES = 2  # of a v5p chip: they share a program, and a kernel's grid


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: a configuration on a topology."""

    title: str
    config: str
    topology: str
    chips: int
    mesh: tuple[int, int, int]
    changes: tuple[tuple[str, Any], ...] = (("attention", "auto"), ("remat", "dots"))


CASES = {
    "7b": Case("7B full, v5p 2x2x2", "qwen2_5_coder_7b", "v5p:2x2x2", 8, (1, 8, 1)),
    "3b": Case("3B LoRA r=8, 1 v5p", "qwen2_5_coder_3b", "v5p:2x2x1", 1, (1, 1, 1)),
    "70b": Case(
        "70B full, v5p-512", "llama3_70b", "v5p:8x8x4", 256, (1, 256, 1), (("attention", "auto"), ("remat", "full"))
    ),
}
BEFORE = (("attention", "chunked"), ("remat", "full"))


def flags_of_launcher() -> list[str]:
    """TPU_FLAGS of launch/env.sh."""
    text = (REPOSITORY / "launch" / "env.sh").read_text()
    found = re.search(r"^TPU_FLAGS=\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r"^\s+(--\S+)", found[1], re.MULTILINE)


# ---------------------------------------------------------------- in a process of its own: flags are read once


def compile_one(
    case: Case, step_name: str, changes: dict[str, Any], prefixes: int, folder: Path, key: str
) -> dict[str, Any]:
    """Compiles one step and sums it. ``folder`` has the seconds of the kernels."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from step import read_config

    from dreamprm_jax.models import attention
    from dreamprm_jax.models.decoder import decoder_config
    from dreamprm_jax.planning.cost_model import module_cost
    from dreamprm_jax.training.inspect import compile_step, step_flops, target_devices, training_steps
    from dreamprm_jax.training.mesh import make_mesh

    attention.PREFIXES = prefixes
    config = read_config(str(REPOSITORY / "configs" / f"{case.config}.py"))
    data, fsdp, tensor = case.mesh
    inspect = dataclasses.replace(config.inspect, topology=case.topology, devices=case.chips)
    mesh_config = dataclasses.replace(config.train.mesh, data=data, fsdp=fsdp, tensor=tensor)
    config = dataclasses.replace(config, inspect=inspect, train=dataclasses.replace(config.train, mesh=mesh_config))
    model = dataclasses.replace(decoder_config(dataclasses.replace(config.model, weights="")), **changes)
    mesh = make_mesh(mesh_config, target_devices(config))
    steps = {step.name.removesuffix(" step"): step for step in training_steps(config, model, mesh)}
    once = {
        step.name.removesuffix(" step"): step
        for step in training_steps(config, dataclasses.replace(model, remat="none", attention="einsum"), mesh)
    }
    rows = config.train.batch_size / case.chips
    # Every product once, and the score matrix's lower half: forward, and twice that backward.
    scores = 3 * 4 * rows * config.train.row_tokens**2 * model.num_heads * model.head_dim * model.num_layers
    useful = step_flops(once["plain"], model, mesh) / case.chips - scores / 2
    compiled = compile_step(steps[step_name], model, mesh)
    kernels = json.loads((folder / "kernels.json").read_text()).get(case.config, {})
    text = compiled.as_text()
    (folder / f"{key}.hlo").write_text(text)
    cost = module_cost(text, kernels)
    memory = compiled.memory_analysis()
    return {
        "seconds": cost.seconds,
        "parts": dict(cost.parts),
        "kernels": dict(cost.kernels),
        "unknown_loops": cost.unknown_loops,
        "useful_flops": useful,  # of the plain step
        "memory_gb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
    }


def kernel_seconds(case: Case, dump: Path) -> dict[str, float]:
    """Seconds of one call of each kernel on one chip's rows and heads, by the bundles that libtpu makes of it."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from step import read_config

    from dreamprm_jax.models import fused
    from dreamprm_jax.models.attention import Layout
    from dreamprm_jax.planning.cost_model import CLOCK, causal_pairs, kernel_bundles
    from dreamprm_jax.training.inspect import target_devices

    config = read_config(str(REPOSITORY / "configs" / f"{case.config}.py"))
    config = dataclasses.replace(config, inspect=dataclasses.replace(config.inspect, topology="v5p:2x2x1", devices=1))
    mesh = Mesh(np.asarray(target_devices(config)), ("chip",))
    data, fsdp, tensor = case.mesh
    batch, length = config.train.batch_size // (data * fsdp), config.train.row_tokens
    heads, kv_heads = config.model.num_heads // tensor, config.model.num_kv_heads // tensor
    width = config.model.hidden_size // config.model.num_heads
    whole = NamedSharding(mesh, PartitionSpec())

    def array(count: int) -> Any:
        return jax.ShapeDtypeStruct((batch, length, count, width), jnp.bfloat16, sharding=whole)

    inputs = (array(heads), array(kv_heads), array(kv_heads))
    segments = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=whole)

    def attend(segments: Any, derivative: fused.Derivative, *x: Any) -> Any:
        return fused.attention(*x, Layout(segments), "auto", 256, derivative)

    def passes(segments: Any, *x: Any) -> Any:
        gradient = jax.grad(lambda *x: attend(segments, "reverse", *x).astype(jnp.float32).sum(), argnums=(0, 1, 2))
        return gradient(*x), jax.jvp(lambda *x: attend(segments, "forward", *x), x, x), attend(segments, "none", *x)

    with jax.set_mesh(mesh):
        jax.jit(passes).lower(segments, *inputs).compile()
    found = {}
    rows, keys = fused.TARGETS["tpu"].blocks(length) or (0, 0)
    steps, pairs = length // rows, causal_pairs(length, rows, keys)
    for name in ("dual_attention", "forward_attention"):
        bundles = kernel_bundles(dump, name)
        cycles = steps * bundles[1] + pairs * bundles[2]
        found[name] = batch * heads * cycles / CORES / CLOCK
    pairs = causal_pairs(length, *(min(size, length) for size in fused.SPLASH_BLOCK))
    for name in ("splash_mqa_fwd", "splash_mqa_dkv", "splash_mqa_dq"):
        found[name] = batch * heads * pairs * kernel_bundles(dump, name)[1] / CORES / CLOCK
    return found


def in_process(arguments: list[str], flags: list[str], extra: dict[str, str]) -> None:
    """This script again, with libtpu's flags."""
    environment = {**os.environ, "LIBTPU_INIT_ARGS": " ".join(flags), "JAX_PLATFORMS": "cpu", **extra}
    path = [str(REPOSITORY), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    subprocess.run([sys.executable, str(Path(__file__)), *arguments], env=environment, check=True)


# ---------------------------------------------------------------- the table


def measure_kernels(names: list[str], folder: Path) -> None:
    """kernels.json: seconds of every kernel at each configuration's shape."""
    for name in names:
        target = folder / f"kernels-{name}.json"
        if not target.exists():
            with tempfile.TemporaryDirectory() as dump:
                flags = [f"--xla_jf_dump_to={dump}", "--xla_jf_dump_llo_text=true"]
                in_process([f"--kernels-of={name}", f"--dump={dump}", f"--output={folder}"], flags, {})
    files = {name: json.loads((folder / f"kernels-{name}.json").read_text()) for name in names}
    (folder / "kernels.json").write_text(json.dumps({CASES[name].config: found for name, found in files.items()}))
    for name, found in files.items():
        figures = ", ".join(f"{kernel} {1e3 * seconds:.2f}" for kernel, seconds in found.items())
        print(f"{CASES[name].title}: ms a layer: {figures}", flush=True)


def row(title: str, result: dict[str, Any], plain: float) -> str:
    """One line of the table."""
    seconds, parts = result["seconds"], result["parts"]
    mfu = f"{100 * result['useful_flops'] / PEAK / seconds:.1f}%" if plain == seconds else f"{seconds / plain:.2f} x"
    named = [parts.get(part, 0.0) for part in ("projections", "attention", "collectives", "optimizer")]
    figures = "".join(f"{value:>13.3f}" for value in (*named, seconds - sum(named)))
    return f"{title:<36}{seconds:>9.3f}{mfu:>9}{figures}{result['memory_gb']:>8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="7b,3b,70b", help="rows of the table, by comma")
    parser.add_argument("--steps", default="plain,bi-level")
    parser.add_argument("--before", action="store_true", help="also without kernels, flags and remat policy")
    parser.add_argument(
        "--flag", action="append", default=[], help="one more flag of libtpu, in the form --flag=--xla_..."
    )
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of the decoder's settings")
    parser.add_argument("--output", help="folder of the results; those that are there are not computed again")
    parser.add_argument("--kernels-of", help=argparse.SUPPRESS)
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.output or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if options.kernels_of:
        found = kernel_seconds(CASES[options.kernels_of], Path(options.dump))
        (folder / f"kernels-{options.kernels_of}.json").write_text(json.dumps(found))
        return
    if options.compile:
        job = json.loads(options.compile)
        result = compile_one(CASES[job["case"]], job["step"], job["changes"], job["prefixes"], folder, job["key"])
        (folder / f"{job['key']}.json").write_text(json.dumps(result))
        return
    names = options.only.split(",")
    measure_kernels(names, folder)
    print(
        f"{'':<36}{'seconds':>9}{'MFU':>9}{'projections':>13}{'attention':>13}{'collectives':>13}{'optimizer':>13}",
        end="",
    )
    print(f"{'other':>13}{'GB':>8}")
    forms = [("before", BEFORE, [], 1)] if options.before else []
    forms.append(("", None, [*flags_of_launcher(), *options.flag], 4))
    for name in names:
        for label, changes, flags, prefixes in forms:
            own = dict(changes or CASES[name].changes)
            own |= dict(item.split("=", 1) for item in options.set) if not label else {}
            plain = 0.0
            for step in filter(None, options.steps.split(",")):
                variant = json.dumps([own, flags, prefixes])
                key = f"{name}-{step}-{hashlib.sha256(variant.encode()).hexdigest()[:12]}"
                if not (folder / f"{key}.json").exists():
                    job = {"case": name, "step": step, "changes": own, "prefixes": prefixes, "key": key}
                    in_process([f"--compile={json.dumps(job)}", f"--output={folder}"], flags, {})
                result = json.loads((folder / f"{key}.json").read_text())
                plain = plain or result["seconds"]
                print(row(" ".join((CASES[name].title, step, label)).strip(), result, plain), flush=True)


if __name__ == "__main__":
    main()
