"""Step times on TPU v5p by the TPU compiler's own cost model, by part, and the share of the peak. No TPU is needed.

    pip install libtpu
    python benchmarks/tpu_cost_model.py [--only=7b,3b] [--steps=plain,bi-level] [--meta=reuse_forward=True] [--before]

Each step of the trainer is compiled ahead of time by libtpu, with the flags of launch/env.sh, and the compiler's cycles
are summed (``dreamprm_jax/planning/cost_model.py``). Kernels are compiled alone and counted by the bundles of their
schedule. ``--before`` compiles the same steps without: plain attention by whole chunks, ``remat="full"``, no flags.
``--flag=`` and ``--set=`` try others. MFU counts every matrix product of the model once, and half of the score matrix.
Minutes a step on one core; with --output every result is kept, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import ast
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
    case: Case,
    step_name: str,
    changes: dict[str, Any],
    meta: dict[str, Any],
    prefixes: int,
    folder: Path,
    key: str,
) -> dict[str, Any]:
    """Compiles one step and sums it. ``folder`` has the seconds of the kernels."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from step import read_config

    from dreamprm_jax.models import attention
    from dreamprm_jax.models.decoder import decoder_config
    from dreamprm_jax.planning.inspect import (
        compile_step,
        predicted_cost,
        step_useful_flops,
        target_devices,
        training_steps,
    )
    from dreamprm_jax.training.mesh import make_mesh

    attention.PREFIXES = prefixes
    config = read_config(str(REPOSITORY / "configs" / f"{case.config}.py"))
    data, fsdp, tensor = case.mesh
    inspect = dataclasses.replace(config.inspect, topology=case.topology, devices=case.chips)
    mesh_config = dataclasses.replace(config.train.mesh, data=data, fsdp=fsdp, tensor=tensor)
    train = dataclasses.replace(config.train, mesh=mesh_config, meta=dataclasses.replace(config.train.meta, **meta))
    config = dataclasses.replace(config, inspect=inspect, train=train)
    model = dataclasses.replace(decoder_config(dataclasses.replace(config.model, weights="")), **changes)
    mesh = make_mesh(mesh_config, target_devices(config))
    steps = {step.name.removesuffix(" step"): step for step in training_steps(config, model, mesh)}
    useful = step_useful_flops(steps["plain"], config, model) / case.chips
    compiled = compile_step(steps[step_name], model, mesh)
    measured = json.loads((folder / "kernels.json").read_text())
    cycles = {name: by[str(model.head_dim)] for name, by in measured.items()}
    text = compiled.as_text()
    (folder / f"{key}.hlo").write_text(text)
    cost = predicted_cost(text, config, model, mesh, cycles)
    assert cost is not None
    memory = compiled.memory_analysis()
    return {
        "seconds": cost.seconds,
        "parts": dict(cost.parts),
        "phases": dict(cost.phases),
        "kernels": dict(cost.kernels),
        "unknown_loops": cost.unknown_loops,
        "useful_flops": useful,  # of the plain step
        "memory_gb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
    }


def kernel_cycles(width: int, dump: Path) -> dict[str, tuple[int, int]]:
    """Each kernel's cycles by the bundles that libtpu makes of it (``planning.cost_model.KERNEL_CYCLES``)."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from dreamprm_jax.config import Config
    from dreamprm_jax.models import fused
    from dreamprm_jax.models.attention import Layout
    from dreamprm_jax.planning.inspect import target_devices

    config = Config(inspect=dataclasses.replace(Config().inspect, topology="v5p:2x2x1", devices=1))
    mesh = Mesh(np.asarray(target_devices(config)), ("chip",))
    whole = NamedSharding(mesh, PartitionSpec())
    query, key = (jax.ShapeDtypeStruct((1, 2048, heads, width), jnp.bfloat16, sharding=whole) for heads in (4, 2))
    segments = jax.ShapeDtypeStruct((1, 2048), jnp.int32, sharding=whole)

    def attend(segments: Any, derivative: fused.Derivative, *x: Any) -> Any:
        return fused.attention(*x, Layout(segments), "auto", 256, derivative)

    def passes(segments: Any, *x: Any) -> Any:
        gradient = jax.grad(lambda *x: attend(segments, "once", *x).astype(jnp.float32).sum(), argnums=(0, 1, 2))
        return gradient(*x), jax.jvp(lambda *x: attend(segments, "forward", *x), x, x), attend(segments, "none", *x)

    with jax.set_mesh(mesh):
        jax.jit(passes).lower(segments, query, key, key).compile()
    found = {}
    for name in ("dual_attention", "forward_attention"):  # a loop over keys inside the grid of rows
        bundles = kernel_bundles(dump, name)
        found[name] = bundles[1], bundles[2]
    for name in ("splash_mqa_fwd", "splash_mqa_dkv", "splash_mqa_dq"):  # a grid of the pairs
        found[name] = 0, kernel_bundles(dump, name)[1]
    return found


def kernel_bundles(dump: Path, kernel: str) -> dict[int, int]:
    """Instruction bundles of a kernel by the depth of their loop: 1 for the grid, 2 for the loop in its body.

    A bundle takes a cycle. What the memory makes it wait is not in it.

    Args:
      dump: folder of ``--xla_jf_dump_to`` with ``--xla_jf_dump_llo_text=true``.
      kernel: a part of the instruction's name.
    """
    files = sorted(
        path for path in dump.glob("*-final_bundles.txt") if kernel in path.name and "analysis" not in path.name
    )
    if not files:
        raise SystemExit(f"{dump}: no schedule of the kernel {kernel!r}")
    found: dict[int, int] = {}
    for line in files[0].read_text(errors="replace").splitlines():
        if match := re.match(r"\s*0x[0-9a-f]+ +(?:[A-Z]{2})? *: +(>*)", line):
            found[len(match[1])] = found.get(len(match[1]), 0) + 1
    return found


def in_process(arguments: list[str], flags: list[str], extra: dict[str, str]) -> None:
    """This script again, with libtpu's flags."""
    environment = {**os.environ, "LIBTPU_INIT_ARGS": " ".join(flags), "JAX_PLATFORMS": "cpu", **extra}
    path = [str(REPOSITORY), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    subprocess.run([sys.executable, str(Path(__file__)), *arguments], env=environment, check=True)


# ---------------------------------------------------------------- the table


def measure_kernels(folder: Path) -> None:
    """kernels.json: cycles of every kernel of this libtpu, by head width."""
    if not (folder / "kernels.json").exists():
        found: dict[str, dict[int, Any]] = {}
        for width in (64, 128):
            with tempfile.TemporaryDirectory() as dump:
                flags = [f"--xla_jf_dump_to={dump}", "--xla_jf_dump_llo_text=true"]
                in_process([f"--kernels-of={width}", f"--dump={dump}", f"--output={folder}"], flags, {})
            for name, cycles in json.loads((folder / "width.json").read_text()).items():
                found.setdefault(name, {})[width] = cycles
        (folder / "kernels.json").write_text(json.dumps(found))
    print(f"kernels, cycles by head width: {(folder / 'kernels.json').read_text()}", flush=True)


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
    parser.add_argument(
        "--meta",
        action="append",
        default=[],
        help="NAME=VALUE of config.train.meta: reuse_forward=True, accumulation=2",
    )
    parser.add_argument("--output", help="folder of the results; those that are there are not computed again")
    parser.add_argument("--kernels-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.output or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if options.kernels_of:
        (folder / "width.json").write_text(json.dumps(kernel_cycles(options.kernels_of, Path(options.dump))))
        return
    if options.compile:
        job = json.loads(options.compile)
        arguments = (job[name] for name in ("step", "changes", "meta", "prefixes"))
        result = compile_one(CASES[job["case"]], *arguments, folder, job["key"])
        (folder / f"{job['key']}.json").write_text(json.dumps(result))
        return
    names = options.only.split(",")
    measure_kernels(folder)
    print(
        f"{'':<36}{'seconds':>9}{'MFU':>9}{'projections':>13}{'attention':>13}{'collectives':>13}{'optimizer':>13}",
        end="",
    )
    print(f"{'other':>13}{'GB':>8}")
    meta = {name: ast.literal_eval(value) for name, value in (item.split("=", 1) for item in options.meta)}
    forms = [("before", BEFORE, [], 1)] if options.before else []
    forms.append(("", None, [*flags_of_launcher(), *options.flag], 4))
    for name in names:
        for label, changes, flags, prefixes in forms:
            own = dict(changes or CASES[name].changes)
            own |= dict(item.split("=", 1) for item in options.set) if not label else {}
            plain = 0.0
            for step in filter(None, options.steps.split(",")):
                own_meta = {} if label else meta
                variant = json.dumps([own, own_meta, flags, prefixes])
                key = f"{name}-{step}-{hashlib.sha256(variant.encode()).hexdigest()[:12]}"
                if not (folder / f"{key}.json").exists():
                    job = {
                        "case": name,
                        "step": step,
                        "changes": own,
                        "meta": own_meta,
                        "prefixes": prefixes,
                        "key": key,
                    }
                    in_process([f"--compile={json.dumps(job)}", f"--output={folder}"], flags, {})
                result = json.loads((folder / f"{key}.json").read_text())
                plain = plain or result["seconds"]
                print(row(" ".join((CASES[name].title, step, label)).strip(), result, plain), flush=True)


if __name__ == "__main__":
    main()
