"""A trained reward model in a run's folder, found through the train stage's marker.

A finished model stays usable if problems, settings or other stages of the run change later.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreamprm_jax.config import Config, freeze
from dreamprm_jax.config.renamed import RENAMED
from dreamprm_jax.runs.stage_folder import DONE, STARTED
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json


@dataclass(frozen=True)
class TrainedArm:
    """One arm of a finished train stage.

    Attributes:
      folder: Folder of the arm, with its checkpoints.
      config: Settings that it was trained with.
      fingerprint: Fingerprint of the train stage.
    """

    folder: Path
    config: Config
    fingerprint: str

    @property
    def name(self) -> str:
        """Name of the arm."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.folder.parent / "tokenizer.json"


def trained_arm(path: Path) -> TrainedArm:
    """The arm at RUN/ARM or RUN/train/ARM, or at RUN/old/train-N/ARM if the run has been trained again since.

    Raises:
      DataError: if training has not finished there, or if there is no such arm.
    """
    train = path.parent if (path.parent / STARTED).is_file() else path.parent / "train"
    if not (train / STARTED).is_file():
        raise DataError(f"{path}: no trained model there; give RUN/ARM, RUN being the folder of a run")
    if not (train / DONE).is_file():
        earlier = sorted(marker.parent for marker in (train.parent / "old").glob(f"train-*/{DONE}"))
        hint = f"; an earlier one is {earlier[-1] / path.name}" if earlier else ""
        raise DataError(f"{train}: training has not finished; run `dreamprm run` with the same settings again{hint}")
    started = read_json(train / STARTED)
    config = freeze(started["config"])
    if RENAMED.get(path.name, path.name) not in config.train.arms:  # the folder may have an old name
        raise DataError(f"{path}: the models trained there are {', '.join(config.train.arms)}")
    return TrainedArm(train / path.name, config, started["fingerprint"])
