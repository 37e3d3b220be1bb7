"""Runs one stage: reuses finished output, resumes unfinished work, archives output of other settings."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dreamprm_jax.config import Config, leaves, to_dict
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.locks import run_lock
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.process_group import ProcessGroup
from dreamprm_jax.runs.progress import duration
from dreamprm_jax.runs.stage_folder import require_done, stage_folder
from dreamprm_jax.runs.stage_graph import Stage, stage_of
from dreamprm_jax.stages.ignored_settings import ignored_settings
from dreamprm_jax.stages.validation import check_environment, validate
from dreamprm_jax.storage import write_json

_POLL_SECONDS = 1.0


def run_stage(config: Config, root: Path, name: str) -> bool:
    """Runs one stage in ``root``.

    In a multi-process run (``config.distributed``) process 0 owns the folder and its markers. The other processes take
    part in the stages that run on all processes, and wait for the markers of the other stages.

    Returns:
      Whether the stage was executed; False if its output was reused, or made by process 0.

    Raises:
      DataError: if a setting is invalid, before anything in ``root`` changes; if an input stage has not finished for
        these settings.
    """
    stage = stage_of(config, name)
    validate(config)
    if config.distributed.mode == "off":
        return _run(config, root, stage, ProcessGroup())
    from dreamprm_jax.training.distributed import process_group  # imports jax

    with process_group(config.distributed, stops_in_sync=stage.stops_in_sync) as group:
        return _run(config, root, stage, group)


def _run(config: Config, root: Path, stage: Stage, group: ProcessGroup) -> bool:
    main = group.index == 0
    folder = stage_folder(config, root, stage.name)
    if not main and not stage.runs_on_all_processes:
        while not folder.is_done():
            time.sleep(_POLL_SECONDS)
        return False
    for needed in stage.inputs:
        require_done(config, root, needed)
    if folder.is_done():
        _log(main, f"== {stage.name}: already done for these settings, reused ({folder.path})")
        return False
    check_environment(config, (stage.name,))
    _log(main, f"== {stage.name}: {stage.summary}")
    for note in ignored_settings(config, stage.sections):
        _log(main, f"   note: {note}")
    barrier = group.barrier if stage.runs_on_all_processes else ProcessGroup().barrier
    with run_lock(root) if main else contextlib.nullcontext():
        if main:
            folder.open(to_dict(config), reuse="*.journal")
            record_run(config, root)
        barrier(f"{stage.name} opened")
        if folder.is_done():
            _log(main, f"   an earlier run with these settings had finished; reused ({folder.path})")
            return False
        started = time.monotonic()
        counts = stage_function(stage.name)(config, Paths(root))
        barrier(f"{stage.name} done")
        seconds = time.monotonic() - started
        if main:
            folder.finish(counts, seconds)
        barrier(f"{stage.name} marked")
    counted = ", ".join(f"{value} {key}" for key, value in counts.items())
    _log(main, f"   {stage.name} took {duration(seconds)} and wrote {folder.path}: {counted}")
    return True


def stage_function(name: str) -> Callable[[Config, Paths], dict[str, int]]:
    """The function of a stage, imported lazily so that host stages never import jax."""
    return getattr(importlib.import_module(f"dreamprm_jax.stages.{name}"), name)


def record_run(config: Config, root: Path) -> None:
    """Writes the resolved settings, the digests of input files, versions, commit and command into the run's folder."""
    write_json(root / "config.json", to_dict(config))
    inputs = InputDigests(root)
    for name, value, info in leaves(config):
        inputs.digest_or_value(name, value, info)
    inputs.save()
    versions = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in ("dreamprm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pyarrow"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    versions["commit"] = checkout_commit()
    versions["command"] = shlex.join(["dreamprm", *sys.argv[1:]])
    write_json(root / "versions.json", versions)


def checkout_commit() -> str:
    """The git commit of the checkout that contains this package, with the suffix -dirty if it has changes."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True, timeout=10)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "installed, no checkout"


def _log(main: bool, text: str) -> None:
    if main:
        print(text, flush=True)
