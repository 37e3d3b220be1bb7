"""Metrics of a training run: one JSON object a line, TensorBoard events beside it, and Weights & Biases where asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dreamprm_jax.runs.stage_folder import STARTED
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text


class MetricsWriter:
    """Appends metrics; opened again at a step, it first forgets what was written from that step on."""

    def __init__(self, folder: Path, first_step: int, writes: bool = True, wandb_project: str = ""):
        """Opens the files of an arm.

        Args:
          folder: of the arm.
          first_step: the first step that will be written.
          writes: False on processes that leave writing to another; every call then does nothing.
          wandb_project: also a run in this Weights & Biases project; "" for none.

        Raises:
          DataError: where wandb is asked for and not installed, or does not start.
        """
        self._file: IO[str] | None = None
        if not writes:
            return
        from tensorboardX import SummaryWriter  # here, as it takes seconds where torch is installed

        self._run = _wandb_run(wandb_project, folder) if wandb_project else None
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        kept = [line for line in self._complete_lines() if json.loads(line)["step"] < first_step]
        write_text(self._path, "".join(kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def _complete_lines(self) -> list[str]:
        if not self._path.exists():
            return []
        return [line for line in self._path.read_text(encoding="utf-8").splitlines(True) if line.endswith("}\n")]

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step and its values."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(values, step=step)

    def close(self) -> None:
        """Flushes all."""
        if self._file is None:
            return
        self._file.close()
        self._board.close()
        if self._run is not None:
            self._run.finish()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _wandb_run(project: str, folder: Path) -> Any:
    """A run that a restart of the same arm, in the same folder and with the same settings, goes on with."""
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
