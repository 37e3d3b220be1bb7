"""Runs a study: one process for each regime and seed, several at a time.

It can be killed at any moment. Each result is one file that is written atomically, and the next run computes those that
are missing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dreamprm_jax.runs.locks import run_lock
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import atomic_path, read_json, write_json, write_text
from dreamprm_jax.tables import csv_text
from research.study.results import missing, read_results, relevant
from research.study.settings import StudySettings, freeze_study

DESCRIPTION = """\
Trains a small reward model on each labeling (arm) in each regime of label noise for each seed, on the procedural
benchmark with its exact truth, and compares every arm with the baseline, seed by seed. Writes WORKDIR/results (one
file for each regime, seed and arm), study.md (tables), study.csv and plots. A stopped study continues where it was;
seeds, regimes and arms may be added to a finished one.
`python -m research.study labels --help`: the labelings alone, in a grid of noise; `codeio`: on real programs.
`codeio-files`: those programs as files of step labels, to train on; `codeio-measure`: reward models on them.
`document`: the tables of README.md and docs/label_correction.md, from the committed CSVs.
"""
SETTINGS = StudySettings
OPTIONS: dict[str, dict[str, Any]] = {
    "--report": {"action": "store_true", "help": "make tables and plots of what is there, train nothing"}
}

Unit = tuple[str, int]
_REPOSITORY = Path(__file__).resolve().parents[2]


def run(settings: StudySettings, folder: Path, report: bool = False) -> list[Path]:
    """Trains the missing arms, unless ``report`` is set, and writes the report. Returns the tables and plots.

    Raises:
      DataError: if the folder contains results of other settings, or if a unit fails (other units' results are kept).
    """
    settings = freeze_study(settings)
    if not report:
        with run_lock(folder):
            train_missing(settings, folder)
    return write_report(folder, settings.baseline)


def write_report(folder: Path, baseline: str) -> list[Path]:
    """Writes tables and plots of all results in the folder. Returns the files.

    Raises:
      DataError: if there are no results, or none of the baseline.
    """
    from research.study.plots import differences
    from research.study.tables import markdown

    rows = read_results(folder)
    if not any(row["arm"] == baseline for row in rows):
        raise DataError(f"{folder}: no result of the baseline {baseline!r}")
    tables, csv = folder / "study.md", folder / "study.csv"
    write_text(tables, markdown(rows, baseline))
    write_text(csv, csv_text(rows))
    written = [tables, csv]
    for figure in ("step_auroc", "best_of_n_sum_log_odds"):
        path = folder / f"{figure}.svg"
        with atomic_path(path) as temporary:
            differences(rows, baseline, figure).savefig(temporary, format="svg")
        written.append(path)
    return written


def train_missing(settings: StudySettings, folder: Path) -> None:
    """Computes every missing result. Raises the same errors as ``run``."""
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
    """Writes the settings. Raises DataError if the folder is in use with other settings."""
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
    """Starts units until ``workers`` are running. Returns whether one was started."""
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
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # units may share an accelerator
    }
    log = _log(folder, unit)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "research.study.unit", str(folder.resolve()), regime, str(seed)],
            cwd=_REPOSITORY,  # the folder of the package research
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
