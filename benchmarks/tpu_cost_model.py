"""Step times on TPU v5p according to the TPU compiler's cost model, for an old commit and this one. Needs no TPU.

    pip install libtpu
    python benchmarks/tpu_cost_model.py [--only=7b,3b,70b] [--forms=before,after] [--output=DIR]

Prints the table of docs/device_figures.md. ``before`` is commit 606a43a, checked out in the output folder; ``after`` is
this working tree. Each runs its own ``dreamprm inspect`` with the TPU flags of its launch/env.sh: libtpu compiles the
training steps ahead of time, and the cycles that it estimates are summed (``dreamprm_jax/planning/cost_model.py``).
Kernels are compiled separately, and their scheduled instruction bundles are counted. MFU counts every matrix product of
the model once, and half of the score matrix.

A step takes 2 to 20 minutes on one core. Compiled programs are kept in the output folder under a digest of the
compiler's input. So a killed command continues where it stopped, and a later commit compiles only what has changed.
``--set`` and ``--flag`` try other settings and flags on the working tree.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BEFORE = "606a43a"
REUSE = ("--config.train.meta.reuse_forward=True", "--config.train.meta.accumulation=2")


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of the table: a configuration on a topology, and the steps that are compiled."""

    title: str
    config: str
    settings: tuple[str, ...]
    bilevel: bool = True


CASES = {
    "7b": Case("7B full, v5p 2x2x2, 2 x 4,096 tokens per chip", "qwen2_5_coder_7b", ("--config.model.weights=",)),
    "3b": Case(
        "3B LoRA r=8, one v5p, 8 x 2,048 tokens",
        "qwen2_5_coder_3b",
        ("--config.model.weights=", "--config.inspect.topology=v5p:2x2x1", "--config.inspect.devices=1"),
    ),
    "70b": Case(
        "70B full, v5p-512, 4,096 tokens per chip",
        "llama3_70b",
        ("--config.model.weights=", "--config.inspect.topology=v5p:8x8x4"),
        bilevel=False,
    ),
}
PARTS = ("projections", "attention", "collectives", "optimizer")


def launcher_flags(checkout: Path) -> list[str]:
    """TPU_FLAGS of launch/env.sh."""
    text = (checkout / "launch" / "env.sh").read_text()
    found = re.search(r"^TPU_FLAGS=\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r"^\s+(--\S+)", found[1], re.MULTILINE)


# ---------------------------------------------------------------- in a separate process, because flags are read once


def digest(lowered: Any, *more: str) -> str:
    """A digest of the compiler's input."""
    given = [lowered.as_text(), os.environ["LIBTPU_INIT_ARGS"], metadata.version("libtpu"), *more]
    return hashlib.sha256("\0".join(given).encode()).hexdigest()[:16]


def inspect(folder: Path, name: str, count: int, arguments: list[str]) -> None:
    """Runs ``dreamprm inspect`` of the package on the path until ``count`` steps are compiled.

    Compiled programs are written to ``folder``, or read from it. NAME.json lists their digests.
    """
    import jax

    compile_it, found = jax.stages.Lowered.compile, []

    def compile_once(self: Any, compiler_options: Any = None, **_: Any) -> Any:
        key = digest(self, *(item for item in arguments if item.startswith(("--config=", "--config.inspect."))))
        if not (folder / f"{key}.json").exists():
            start = time.time()
            compiled = compile_it(self, compiler_options)
            memory = compiled.memory_analysis()
            (folder / f"{key}.hlo.gz").write_bytes(gzip.compress(compiled.as_text().encode(), 3))
            size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            (folder / f"{key}.json").write_text(json.dumps({"bytes": size, "compile_seconds": time.time() - start}))
        found.append(key)
        if len(found) == count:
            (folder / f"{name}.json").write_text(json.dumps(found))
            raise SystemExit(0)
        raise MemoryError("kept for the sum of its cycles")  # inspect then continues with the next step

    jax.stages.Lowered.compile = compile_once  # type: ignore[method-assign]
    sys.argv = ["dreamprm", "inspect", *arguments]
    runpy.run_module("dreamprm_jax.cli", run_name="__main__")
    raise SystemExit(f"inspect compiled {len(found)} of {count} steps")


def kernel_cycles(folder: Path, name: str, width: int, dump: Path) -> None:
    """Counts the cycles of each kernel by its instruction bundles (``planning.cost_model.KERNEL_CYCLES``).

    The result is written to ``folder`` under a digest, or read from it; NAME.json contains the digest.
    """
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
    query, keys = (jax.ShapeDtypeStruct((1, 2048, heads, width), jnp.bfloat16, sharding=whole) for heads in (4, 2))
    segments = jax.ShapeDtypeStruct((1, 2048), jnp.int32, sharding=whole)

    def attend(segments: Any, derivative: fused.Derivative, *x: Any) -> Any:
        return fused.attention(*x, Layout(segments), "auto", 256, derivative)

    def passes(segments: Any, *x: Any) -> Any:
        gradient = jax.grad(lambda *x: attend(segments, "once", *x).astype(jnp.float32).sum(), argnums=(0, 1, 2))
        return gradient(*x), jax.jvp(lambda *x: attend(segments, "forward", *x), x, x), attend(segments, "none", *x)

    with jax.set_mesh(mesh):
        lowered = jax.jit(passes).lower(segments, query, keys, keys)
        target = digest(lowered)
        (folder / f"{name}.json").write_text(json.dumps([target]))
        if (folder / f"{target}.json").exists():
            return
        lowered.compile()
    found = {}
    for kernel in ("dual_attention", "forward_attention"):  # a loop over keys inside the grid of rows
        bundles = kernel_bundles(dump, kernel)
        found[kernel] = bundles[1], bundles[2]
    for kernel in ("splash_mqa_fwd", "splash_mqa_dkv", "splash_mqa_dq"):  # a grid of the pairs
        found[kernel] = 0, kernel_bundles(dump, kernel)[1]
    (folder / f"{target}.json").write_text(json.dumps(found))


def kernel_bundles(dump: Path, kernel: str) -> dict[int, int]:
    """Instruction bundles of a kernel by the depth of their loop: 1 for the grid, 2 for the loop in its body.

    A bundle takes one cycle, without waits for memory.

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


# ---------------------------------------------------------------- the table


def worker(folder: Path, name: str, checkout: Path, flags: list[str], *arguments: str) -> list[dict[str, Any]]:
    """Runs ``name`` in a process with libtpu's flags and the package of ``checkout``. Returns its records.

    Raises:
      RuntimeError: if the process fails; contains the last line of its log.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "LIBTPU_INIT_ARGS": " ".join(flags),
        "PYTHONPATH": str(checkout),
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # keeps line numbers out of the program
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    start, log = time.time(), folder / f"{name}.log"
    command = [sys.executable, str(Path(__file__).resolve()), f"--output={folder}", f"--worker={name}", *arguments]
    with log.open("w") as file:
        failed = subprocess.run(
            command, env=environment, cwd=checkout, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if failed:
        last = (log.read_text().strip().splitlines() or [f"status {failed}"])[-1]
        raise RuntimeError(f"{name}: {last[:300]} ({log})")
    print(f"{name}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    keys = json.loads((folder / f"{name}.json").read_text())
    return [json.loads((folder / f"{key}.json").read_text()) | {"key": key} for key in keys]


def measure_kernels(folder: Path) -> dict[str, dict[int, tuple[int, int]]]:
    """Cycles of every kernel of this libtpu, by name and head width."""
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for width in (64, 128):
        with tempfile.TemporaryDirectory() as dump:
            flags = [f"--xla_jf_dump_to={dump}", "--xla_jf_dump_llo_text=true"]
            [cycles] = worker(folder, f"kernels-{width}", REPOSITORY, flags, f"--dump={dump}", f"--width={width}")
        for name in cycles.keys() - {"key"}:
            found.setdefault(name, {})[width] = cycles[name]
    return found


def checkout_of(folder: Path, revision: str) -> Path:
    """A git worktree of a commit."""
    target = folder / revision
    if not target.exists():
        subprocess.run(["git", "worktree", "add", "--force", "--detach", target, revision], cwd=REPOSITORY, check=True)
    return target


class Sums:
    """Sums the cost of the compiled programs of one case."""

    def __init__(self, case: Case, folder: Path, kernels: dict[str, dict[int, tuple[int, int]]]) -> None:
        from step import read_config

        from dreamprm_jax.models.decoder import decoder_config
        from dreamprm_jax.planning.cost_model import kernel_seconds
        from dreamprm_jax.training.chips import CHIPS
        from dreamprm_jax.training.flops import useful_flops

        config = read_config(str(REPOSITORY / "configs" / f"{case.config}.py"))
        train, model = config.train, decoder_config(dataclasses.replace(config.model, weights=""))
        assert train.mesh.tensor == 1, "a device has every head"
        cycles = {name: by[model.head_dim] for name, by in kernels.items()}
        self.kernels = kernel_seconds(model.num_heads, model.head_dim, train.row_tokens, cycles)
        self.folder = folder
        chips = max(1, train.mesh.fsdp)
        self.floor = useful_flops(model, train.row_tokens, train.batch_size) / chips / CHIPS["v5p"].peak_flops

    def cells(self, program: dict[str, Any], plain: float | None) -> tuple[float, str, list[str]]:
        """Seconds; MFU, or times plain; seconds of the parts, and GB."""
        from dreamprm_jax.planning.cost_model import module_cost

        text = gzip.decompress((self.folder / f"{program['key']}.hlo.gz").read_bytes()).decode()
        cost = module_cost(text, self.kernels)
        if cost.unknown_loops:
            print(f"{program['key']}: {cost.unknown_loops} loops of unknown length count once", file=sys.stderr)
        rate = f"{100 * self.floor / cost.seconds:.1f} %" if plain is None else f"{cost.seconds / plain:.2f} x"
        parts = [f"{cost.parts.get(part, 0.0):.3f}" for part in PARTS]
        return cost.seconds, rate, [*parts, f"{program['bytes'] / 1e9:.1f}"]


def rows(case: Case, name: str, options: argparse.Namespace, folder: Path, kernels: Any) -> int:
    """Prints the rows of a case. Returns how many steps did not compile."""
    sums, failed = Sums(case, folder, kernels), 0
    forms = {
        "before": (lambda: checkout_of(folder, BEFORE), (), []),
        "after": (lambda: REPOSITORY, tuple(f"--config.{item}" for item in options.set), options.flag),
    }
    found: dict[tuple[str, str], tuple[float, str, list[str]]] = {}
    for form in options.forms.split(","):
        checkout, settings, flags = forms[form][0](), *forms[form][1:]
        variants = {"": ()} | ({", reuse_forward, accumulation=2": REUSE} if case.bilevel and form == "after" else {})
        plain = None
        for label, more in variants.items():
            arguments = (f"--config=configs/{case.config}.py", *case.settings, *settings, *more)
            job = f"{name}-{form}{'-reuse' * bool(more)}"
            count = f"--steps={1 + case.bilevel}"
            try:
                programs = worker(folder, job, checkout, launcher_flags(checkout) + flags, count, "--", *arguments)
            except RuntimeError as error:
                failed += 1
                print(error, file=sys.stderr, flush=True)
                continue
            for step, program in zip(("plain", "bi-level K=1"), programs, strict=False):
                cells = sums.cells(program, plain)
                plain = plain or cells[0]
                if step != "plain" or not label:
                    found[step + label, form] = cells
    for step in dict.fromkeys(step for step, _ in found):
        title = case.title if step == "plain" else "the same"
        both = [found.get((step, form)) for form in ("before", "after")]
        speed = [cell for each in both for cell in ([f"{each[0]:.3f}", each[1]] if each else ["-", "-"])]
        last = both[1] or both[0]
        print("| " + " | ".join([f"{title}, {step}", *speed, *(last[2] if last else [])]) + " |", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="cases, by comma (default: all)")
    parser.add_argument("--forms", default="before,after", help="by comma (default: both)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as in --set=model.remat=full")
    parser.add_argument("--flag", action="append", default=[], help="of libtpu, as in --flag=--xla_...=true")
    parser.add_argument(
        "--output", default=str(REPOSITORY / "runs" / "tpu_cost_model"), help="folder of compiled programs"
    )
    for name in ("worker", "dump"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("width", "steps"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.width:
        kernel_cycles(folder, options.worker, options.width, Path(options.dump))
        return 0
    if options.worker:
        inspect(folder, options.worker, options.steps, options.arguments)
        return 0
    kernels = measure_kernels(folder)
    print(f"kernels, cycles of a row block and of a pair of blocks, by head width: {json.dumps(kernels)}\n")
    print("| step | before, s | before | after, s | after | " + " | ".join(PARTS) + " | GB |")
    print("|" + "---|" * 10, flush=True)
    return min(1, sum(rows(CASES[name], name, options, folder, kernels) for name in options.only.split(",")))


if __name__ == "__main__":
    sys.exit(main())
