"""The whole pipeline on a data set of LiveCodeBench's size, against the same programs with small tests.

    python benchmarks/livecodebench_size.py [--problems=700] [--gigabytes=4] [--largest-mb=80] [--keep=DIR]

Makes two folders in the hub's layout (``livecodebench_folder.py``), one with the true sizes and one with small tests,
runs the six stages on both (replayed programs, a tiny model trained as in the embedded job) and prints, for each stage,
the time of both, their ratio, and the peak resident memory of every host process: the command itself and the engine's
workers. The judge's workers hold the tests of the programs that they run and are listed apart. Ends with status 1 where
a host process needed more than 2 GiB. Cost at full size: about 20 minutes and 10 GB of disk on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from livecodebench_folder import PROGRAMS, make_folder

from dreamprm_jax.runs.stage_graph import STAGES

LIMIT_MIB = 2048
SMALL_BYTES = 2000  # of hidden tests of each problem, in the small folder
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "embedded.py"


@dataclass
class Peak:
    """Peak resident memory, MiB."""

    host: float = 0.0
    judge: float = 0.0


def settings(folder: Path, problems: int) -> list[str]:
    """Overrides: LiveCodeBench rows, replayed programs, a tiny model."""
    values = {
        "problems.source": "livecodebench",
        "problems.path": folder,
        "problems.meta_count": max(1, problems // 10),
        "policy.kind": "replay",
        "policy.path": folder / PROGRAMS,
        "generate.train_programs": 4,
        "generate.test_programs": 4,
        "label.rollouts": 2,
        "model.vocab_size": 512,
        "model.hidden_size": 32,
        "model.intermediate_size": 64,
        "model.num_layers": 1,
    }
    return [f"--config.{name}={value}" for name, value in values.items()]


def run_stages(
    folder: Path, problems: int, workdir: Path, watch: Callable[[int], Peak], stages: Iterable[str] = STAGES
) -> dict[str, tuple[float, Peak]]:
    """Seconds and peak memory of every stage, each in a process of its own."""
    figures = {}
    for stage in stages:
        command = [sys.executable, "-m", "dreamprm_jax.cli", stage, f"--config={CONFIG}", f"--workdir={workdir}"]
        started = time.monotonic()
        with subprocess.Popen([*command, *settings(folder, problems)], stdout=subprocess.DEVNULL) as process:
            peak = watch(process.pid)
        if process.returncode:
            raise SystemExit(f"{stage} ended with status {process.returncode}")
        figures[stage] = (time.monotonic() - started, peak)
        print(f"  {stage}: {figures[stage][0]:.1f} s, host {peak.host:.0f} MiB", flush=True)
    return figures


def watch_memory(root: int) -> Peak:
    """Follows a process and its descendants until it ends. Returns their peaks."""
    peak = Peak()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            for pid in _descendants(root):
                judge, resident = _memory(pid)
                if judge:
                    peak.judge = max(peak.judge, resident)
                else:
                    peak.host = max(peak.host, resident)

    thread = threading.Thread(target=look)
    thread.start()
    os.waitid(os.P_PID, root, os.WEXITED | os.WNOWAIT)
    stop.set()
    thread.join()
    return peak


def _descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in _listed(f"/proc/{pid}/task"):
            found += [int(child) for child in _text(f"/proc/{pid}/task/{task}/children").split()]
    return found


def _memory(pid: int) -> tuple[bool, float]:
    """(whether it is a judge's worker or a judged program, peak resident MiB)."""
    judge = "sandbox" in _text(f"/proc/{pid}/cmdline")
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmHWM:"):
            return judge, int(line.split()[1]) / 1024
    return judge, 0.0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def main() -> int:
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=700)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--largest-mb", type=float, default=80.0)
    parser.add_argument("--keep", type=Path, help="folder to work in and to keep (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = args.keep or Path(temporary)
        total, largest = int(args.gigabytes * 1e9), int(args.largest_mb * 1e6)
        figures = {}
        for name, size, cap in (("small", SMALL_BYTES * args.problems, SMALL_BYTES), ("full", total, largest)):
            print(f"{name}: {args.problems} problems, {size / 1e9:.3f} GB of hidden tests", flush=True)
            make_folder(base / f"{name}_rows", args.problems, size, cap)
            figures[name] = run_stages(base / f"{name}_rows", args.problems, base / f"{name}_run", watch_memory)
    print(f"\n{'stage':<10}{'small, s':>10}{'full, s':>10}{'ratio':>8}{'host, MiB':>11}{'judge, MiB':>12}")
    rows = {stage: (figures["small"][stage], figures["full"][stage]) for stage in STAGES}
    for stage, ((small, _), (full, peak)) in rows.items():
        print(f"{stage:<10}{small:>10.1f}{full:>10.1f}{full / small:>8.2f}{peak.host:>11.0f}{peak.judge:>12.0f}")
    small, full = (sum(seconds for seconds, _ in figures[name].values()) for name in ("small", "full"))
    most = max(peak.host for _, peak in figures["full"].values())
    print(f"{'all':<10}{small:>10.1f}{full:>10.1f}{full / small:>8.2f}{most:>11.0f}")
    return 0 if most <= LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
