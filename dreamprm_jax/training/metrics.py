"""Metrics of a training run: one JSON object a line, and TensorBoard events beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from dreamprm_jax.storage import write_text


class MetricsWriter:
    """Appends metrics; opened again at a step, it first forgets what was written from that step on."""

    def __init__(self, folder: Path, first_step: int):
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
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
