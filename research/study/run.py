"""Runs a study: one process for each regime and seed, several at a time; what is done stays done.

Kill it at any moment: a result is one file, written whole, and the next start makes those that are missing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json, write_json
from research.study.results import missing, relevant
from research.study.settings import StudySettings

Unit = tuple[str, int]
_REPOSITORY = Path(__file__).resolve().parents[2]


def run_study(settings: StudySettings, folder: Path) -> None:
    """Makes every result that is missing.

    Raises:
      DataError: where the folder holds results of other settings, or a unit fails (what the others made is kept).
    """
    _claim(settings, folder)
    every = [(regime, seed) for seed in settings.seeds for regime in settings.regimes]
    units = [unit for unit in every if missing(settings, folder, *unit)]
    total = sum(len(missing(settings, folder, *unit)) for unit in units)
    whole = len(every) * len(settings.arms)
    workers = settings.workers or os.cpu_count() or 1
    running: dict[Unit, subprocess.Popen[bytes]] = {}
    waiting = iter(units)
    failed: list[Unit] = []
    with tqdm(total=whole, initial=whole - total, desc=f"study {settings.name}", unit="arm") as bar:
        try:
            while _fill(running, waiting, workers, settings, folder) or running:
                _wait_a_moment(running)
                bar.n = whole - sum(len(missing(settings, folder, *unit)) for unit in units)
                bar.refresh()
                for unit, process in list(running.items()):
                    if process.poll() is not None:
                        del running[unit]
                        if process.returncode:
                            failed.append(unit)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        regime, seed = failed[0]
        log = _log(folder, failed[0])
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise DataError(
            f"{len(failed)} unit(s) of the study failed, first regime {regime}, seed {seed}: {''.join(tail)} ({log}); "
            "the results of the others are kept: run the same command again for the rest"
        )


def _claim(settings: StudySettings, folder: Path) -> None:
    """Writes the settings; results of other settings must not be mixed with those to come."""
    path = folder / "settings.json"
    if path.exists():
        there = read_json(path)
        if changed := [name for name, value in relevant(settings).items() if value != there.get(name)]:
            raise DataError(f"{folder}: holds results of other settings ({', '.join(changed)}); take another --workdir")
    write_json(path, dataclasses.asdict(settings))


def _fill(
    running: dict[Unit, subprocess.Popen[bytes]],
    waiting: Iterator[Unit],
    workers: int,
    settings: StudySettings,
    folder: Path,
) -> bool:
    """Starts units while there is room. Returns whether one was started."""
    started = False
    while len(running) < workers:
        unit = next(waiting, None)
        if unit is None:
            break
        running[unit] = _start(settings, folder, unit)
        started = True
    return started


def _start(settings: StudySettings, folder: Path, unit: Unit) -> subprocess.Popen[bytes]:
    regime, seed = unit
    threads = str(settings.threads)
    own = os.environ.get("XLA_FLAGS", "")
    single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if settings.threads == 1 else ""
    environment = os.environ | {
        "XLA_FLAGS": f"{own} {single}".strip(),
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # units share an accelerator where there is one
    }
    log = _log(folder, unit)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "research.study.unit", str(folder.resolve()), regime, str(seed)],
            cwd=_REPOSITORY,  # where the package research is found
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _log(folder: Path, unit: Unit) -> Path:
    return folder / "logs" / f"{unit[0]}_{unit[1]}.log"


def _wait_a_moment(running: dict[Unit, subprocess.Popen[bytes]]) -> None:
    for process in running.values():
        try:
            process.wait(timeout=1.0 / len(running))
        except subprocess.TimeoutExpired:
            continue
