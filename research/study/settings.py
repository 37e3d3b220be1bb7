"""Settings of a study: frozen dataclasses, and the ConfigDict of defaults for ``research/configs/*.py``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import dacite
from ml_collections import config_dict

from dreamprm_jax.config import ModelConfig, check_names
from dreamprm_jax.schema import DataError
from research.study.arms import parse_arm
from research.study.fit import Recipe
from research.study.reading import Reading
from research.study.regimes import regime
from research.study.world import Sizes

Settings = TypeVar("Settings", bound=Any)  # a dataclass whose fields all have defaults


@dataclass(frozen=True)
class StudySettings:
    """Settings of one study, which trains every arm in every regime for every seed."""

    name: str = "study"
    reading: Reading = "structure"
    regimes: tuple[str, ...] = ("k1", "k4", "weak_tests", "family_bias")
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = ("raw", "undetected_fault", "undetected_fault_online", "label_table", "clean")
    baseline: str = "raw"  # the arm with which the others are compared
    sizes: Sizes = field(default_factory=Sizes)
    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: Recipe = field(default_factory=Recipe)
    row_tokens: int = 128
    rows: int = 4  # rows per batch, inner and outer
    warm_share: float = 0.6  # fraction of the steps before the labels of a learned labeling change
    clean_problems: int = 50  # number of meta problems with clean step labels, for arms that use them
    workers: int = 0  # number of processes; 0: one per core
    threads: int = 1  # threads per process


def study_defaults() -> config_dict.ConfigDict:
    """A ConfigDict with every field and its default."""
    return config_dict.ConfigDict(dataclasses.asdict(StudySettings()))


def typed(cls: type[Settings], values: config_dict.ConfigDict) -> Settings:
    """Converts a ConfigDict to a dataclass. Raises DataError for an unknown field or a wrong type."""
    plain = values.to_dict()
    check_names(plain, dataclasses.asdict(cls()), "")
    try:
        return dacite.from_dict(cls, plain, config=dacite.Config(strict=True, cast=[tuple]))
    except dacite.DaciteError as error:
        raise DataError(f"config: {error}") from error


def freeze_study(values: config_dict.ConfigDict | StudySettings) -> StudySettings:
    """Converts the ConfigDict to ``StudySettings``, with canonical names of arms.

    Raises:
      DataError: for an unknown field, arm or regime, a wrong type, or a baseline that is not among the arms.
    """
    settings = values if isinstance(values, StudySettings) else typed(StudySettings, values)
    settings = dataclasses.replace(
        settings,
        arms=tuple(parse_arm(arm).name for arm in settings.arms),
        baseline=parse_arm(settings.baseline).name,
    )
    for name in settings.regimes:
        regime(name)
    if settings.baseline not in settings.arms:
        raise DataError(f"config.baseline: {settings.baseline!r} is none of config.arms")
    for what, items in (("arms", settings.arms), ("regimes", settings.regimes), ("seeds", settings.seeds)):
        if not items or len(set(items)) < len(items):
            raise DataError(f"config.{what}: at least one, none twice")
    for name, least in (
        ("clean_problems", 1),
        ("rows", 1),
        ("workers", 0),
        ("threads", 1),
    ):
        if getattr(settings, name) < least:
            raise DataError(f"config.{name}={getattr(settings, name)}: must be at least {least}")
    if settings.recipe.steps < 10:
        raise DataError(f"config.recipe.steps={settings.recipe.steps}: must be at least 10")
    if not 0.0 < settings.warm_share < 1.0:
        raise DataError(f"config.warm_share={settings.warm_share}: must be between 0 and 1")
    return settings


def read_settings(path: Path) -> StudySettings:
    """Reads settings written by ``write_json(path, dataclasses.asdict(settings))``."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return dacite.from_dict(StudySettings, values, config=dacite.Config(strict=True, cast=[tuple]))
