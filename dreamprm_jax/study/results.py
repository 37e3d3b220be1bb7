"""The results of a study: one small JSON file for each regime, seed and arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json
from dreamprm_jax.study.settings import StudySettings

Row = dict[str, Any]  # regime, seed, arm and figures


def result_path(folder: Path, regime: str, seed: int, arm: str) -> Path:
    """Where the result of one arm is kept."""
    return folder / "results" / regime / str(seed) / f"{arm.replace(':', '__').replace(',', '_')}.json"


def missing(settings: StudySettings, folder: Path, regime: str, seed: int) -> list[str]:
    """The arms of a unit that have no result yet."""
    return [arm for arm in settings.arms if not result_path(folder, regime, seed, arm).exists()]


def read_results(folders: Sequence[Path]) -> list[Row]:
    """All results in the folders, whatever settings.json asks for.

    Raises:
      DataError: where there is none, or one is malformed.
    """
    rows = [read_json(path) for folder in folders for path in sorted((folder / "results").glob("*/*/*.json"))]
    if not rows:
        raise DataError(f"{', '.join(map(str, folders))}: no results of a study; `dreamprm study` makes them")
    return rows
