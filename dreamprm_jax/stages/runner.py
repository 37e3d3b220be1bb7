"""How a stage is run, resumed or reused."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.runs import input_digests as own_files
from dreamprm_jax.runs.paths import Paths, StageFolder
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.schema import DataError, canonical_json, content_hash
from dreamprm_jax.storage import write_json
from dreamprm_jax.user_code import identity, is_own

FORMAT = 3  # raise when a stage's output changes meaning: earlier workdirs are then redone

# How fast or how visibly a stage works does not change what it writes.
_WITHOUT_EFFECT = {
    "name", "workers", "concurrency", "timeout_seconds", "max_retries", "outage_seconds", "base_url", "api_key_env",
    "executor", "threads", "address", "grace_seconds",
    "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_programs",
    "profile_from", "profile_steps", "wandb_project",
    "mesh", "chunk",  # results differ by rounding alone, and checkpoints restore onto any mesh
}  # fmt: skip

# Fields that came after FORMAT: at these values they do not count, so that earlier workdirs stay good.
_LATER = {"candidates": "", "optimizer": "adamw"}


def fingerprint(config: Config, name: str, root: Path | None = None) -> str:
    """Hash of all settings that the stage's output depends on, its inputs' included.

    Args:
      config: the run's settings.
      name: of the stage.
      root: the run's folder, which remembers files that are gone.
    """
    return _fingerprint(config, name, own_files.remembered(root))


def _fingerprint(config: Config, name: str, memory: dict[str, str]) -> str:
    stage = STAGES[name]
    settings = _relevant({section: getattr(config, section) for section in stage.sections}, memory)
    inputs = (_fingerprint(config, needed, memory) for needed in stage.inputs)
    return content_hash(str(FORMAT), name, canonical_json(settings), *inputs, digits=16)


def _relevant(value: Any, memory: dict[str, str]) -> Any:
    plain = {k: to_dict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in value.items()}

    def strip(item: Any, place: str = "") -> Any:
        if isinstance(item, dict):
            return {
                k: _meaning(f"{place}{k}", strip(v, f"{place}{k}."), memory)
                for k, v in item.items()
                if k not in _WITHOUT_EFFECT and not (k in _LATER and v == _LATER[k])
            }
        return item

    return strip(plain)


def _meaning(name: str, value: Any, memory: dict[str, str]) -> Any:
    """What the value of a setting stands for: the content of a file, or the value itself."""
    return identity(value) if isinstance(value, str) and is_own(value) else own_files.content(name, value, memory)


@dataclass(frozen=True)
class Crew:
    """The processes of one run: which one this is, and how it waits until all have come to a named place."""

    index: int = 0
    barrier: Callable[[str], None] = lambda name: None


def run_stage(config: Config, root: Path, name: str) -> bool:
    """Runs one stage in ``root``: reuses finished work, resumes unfinished work, moves work for other settings aside.

    Of several processes (``config.distributed``) the first one owns the folder and its markers. The others take part in
    training, and wait for the markers of all other stages.

    Returns:
      Whether anything had to be done.

    Raises:
      DataError: where an input stage has not finished for these settings.
    """
    if config.distributed.mode == "off":
        return _run_stage(config, root, name, Crew())
    from dreamprm_jax.training.distributed import crew_member  # jax, for runs of several processes alone

    with crew_member(config.distributed, agreed=STAGES[name].agreed) as crew:
        return _run_stage(config, root, name, crew)


def _run_stage(config: Config, root: Path, name: str, crew: Crew) -> bool:
    stage, paths, main = STAGES[name], Paths(root), crew.index == 0
    say = _say if main else _say_nothing
    if not main and not stage.together:
        while not StageFolder(paths.stage(name), fingerprint(config, name, root)).is_done():
            time.sleep(1.0)
        return False
    for needed in stage.inputs:
        if not StageFolder(paths.stage(needed), fingerprint(config, needed, root)).is_done():
            raise DataError(
                f"{paths.stage(needed)}: stage {needed!r} has not finished for these settings; "
                f"run `dreamprm {needed}` first, with the same --config and --workdir, or `dreamprm run`"
            )
    folder = StageFolder(paths.stage(name), fingerprint(config, name, root))
    if folder.is_done():
        say(f"== {name}: already done for these settings, reused ({folder.path})")
        return False
    say(f"== {name}: {stage.summary}")
    meet = crew.barrier if stage.together else Crew().barrier
    with owned(root) if main else contextlib.nullcontext():
        if main:
            record_run(config, root)
            moved = folder.open()
            if moved is not None:
                say(f"   earlier output was made with other settings; kept in {moved}")
        meet(f"{name} opened")
        if folder.is_done():
            say(f"   an earlier run with these settings had finished; reused ({folder.path})")
            return False
        counts = stage.load()(config, paths)
        meet(f"{name} done")
        if main:
            folder.finish(counts)
        meet(f"{name} marked")
    say(f"   {name} wrote {folder.path}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))
    return True


def require_trained(config: Config, paths: Paths) -> None:
    """Raises DataError where the run's train stage has not finished for these settings."""
    if not StageFolder(paths.stage("train"), fingerprint(config, "train", paths.root)).is_done():
        raise DataError(
            f"{paths.stage('train')}: stage 'train' has not finished for these settings; "
            "run `dreamprm run` first, with the same --config and --workdir"
        )


@contextlib.contextmanager
def owned(root: Path) -> Iterator[None]:
    """Holds the run's folder, so that two commands never write into it at once; freed however the process ends."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{root}: another process is working on this run; wait for it or stop it") from error
        yield


def record_run(config: Config, root: Path) -> None:
    """Writes the resolved settings and the versions of everything that matters into the run's folder."""
    write_json(root / "config.json", to_dict(config))
    own_files.remember(to_dict(config), root)
    versions = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in ("dreamprm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pyarrow"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    write_json(root / "versions.json", versions)


def _say(text: str) -> None:
    print(text, flush=True)


def _say_nothing(text: str) -> None:
    pass
