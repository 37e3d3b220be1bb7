"""Metrics of a training run: JSON lines, TensorBoard events and, optionally, Weights & Biases.

``metrics.jsonl`` depends only on settings and data, so a resumed run ends with the same file. Step times, which depend
on the machine, are in ``speed.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dreamprm_jax.runs.stage_folder import STARTED
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text


class MetricsWriter:
    """Appends metrics. If it is reopened at a step, it first removes the metrics of this and later steps."""

    def __init__(self, folder: Path, first_step: int, writes: bool = True, wandb_project: str = ""):
        """Opens the files of an arm.

        Args:
          folder: folder of the arm.
          first_step: the first step that will be written.
          writes: False on processes that do not write; all methods then do nothing.
          wandb_project: Weights & Biases project to log to; "" for none.

        Raises:
          DataError: if wandb is requested but is not installed or does not start.
        """
        self._files: list[IO[str]] = []
        if not writes:
            return
        self._run = _wandb_run(wandb_project, folder) if wandb_project else None
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [_reopened(folder / name, first_step) for name in ("metrics.jsonl", "speed.jsonl")]
        self._board = _summary_writer()(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: dict[str, float], speed: dict[str, float] | None = None) -> None:
        """Writes the values of a step, and its speed if it was measured."""
        for file, figures in zip(self._files, (values, speed), strict=False):
            if figures:
                file.write(json.dumps({"step": step, **figures}) + "\n")
                file.flush()
        if not self._files:
            return
        everything = values | (speed or {})
        for name, value in everything.items():
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(everything, step=step)

    def close(self) -> None:
        """Closes all files, TensorBoard's writer and the wandb run."""
        for file in self._files:
            file.close()
        if not self._files:
            return
        self._board.close()
        if self._run is not None:
            self._run.finish()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _reopened(path: Path, first_step: int) -> IO[str]:
    """The file, opened to append, after removing the lines of ``first_step`` and later steps."""
    lines = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
    kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] < first_step]
    write_text(path, "".join(kept))
    return open(path, "a", encoding="utf-8")


def _summary_writer() -> type:
    """TensorBoard's writer, without torch, which tensorboardX would import if it is installed; that takes seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` raises ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _wandb_run(project: str, folder: Path) -> Any:
    """A wandb run. A restart of the same arm, in the same folder and with the same settings, continues it."""
    try:
        import wandb
    except ImportError as error:
        raise DataError(
            f"config.train.wandb_project={project!r}: wandb is not installed; "
            "pip install 'dreamprm-jax[wandb]', or set it to ''"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    started = folder.parent / STARTED  # the stage's marker holds the fingerprint of its settings
    settings = started.read_text(encoding="utf-8") if started.exists() else ""
    name = hashlib.sha256(f"{folder.resolve()} {settings}".encode()).hexdigest()[:12]
    try:
        return wandb.init(project=project, id=name, name=folder.name, dir=str(folder), resume="allow")
    except wandb.Error as error:
        raise DataError(
            f"config.train.wandb_project={project!r}: Weights & Biases did not start ({error}); "
            "log in with `wandb login`, or set the environment variable WANDB_MODE=offline"
        ) from error
