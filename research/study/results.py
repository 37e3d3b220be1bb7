"""The results of a study: one small JSON file for each regime, seed and arm."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dreamprm_jax.schema import DataError, canonical_json, content_hash
from dreamprm_jax.storage import read_json
from research.study.settings import StudySettings

Row = dict[str, Any]  # regime, seed, arm and figures
FORMAT = 1  # increase it when the meaning of results changes
# Settings that do not affect a single result (except for rounding differences with another number of threads).
WITHOUT_EFFECT = ("name", "regimes", "seeds", "arms", "baseline", "workers", "threads")


def result_path(folder: Path, regime: str, seed: int, arm: str) -> Path:
    """The path of the result of one arm."""
    return folder / "results" / regime / str(seed) / file_name(arm)


def file_name(arm: str) -> str:
    """The file name of an arm's result."""
    return f"{arm.replace(':', '__').replace(',', '_')}.json"


def identity(settings: StudySettings) -> str:
    """Hash of the settings that affect results, and of FORMAT."""
    return content_hash(str(FORMAT), canonical_json(relevant(settings)), digits=16)


def relevant(settings: StudySettings) -> dict[str, Any]:
    """The settings that affect results, in the form in which JSON restores them (lists for tuples)."""
    values = json.loads(canonical_json(dataclasses.asdict(settings)))
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def missing(settings: StudySettings, folder: Path, regime: str, seed: int) -> list[str]:
    """The arms of a unit that have no result yet."""
    return [arm for arm in settings.arms if not result_path(folder, regime, seed, arm).exists()]


def read_results(folder: Path) -> list[Row]:
    """All results in the folder, including those that settings.json does not ask for.

    Raises:
      DataError: if there are no results, if one is malformed, or if they are from different settings.
    """
    rows = [read_json(path) for path in sorted((folder / "results").glob("*/*/*.json"))]
    if not rows:
        raise DataError(f"{folder}: no results of a study; `python -m research.study` makes them")
    if len(kinds := {row["settings"] for row in rows if "settings" in row}) > 1:
        raise DataError(f"{folder}: results of {len(kinds)} different settings; remove it and run the study again")
    return rows
