"""The fingerprint of a stage: a hash of everything that its output depends on. There is no other one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, leaves
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.stage_graph import STAGES, TRAIN_ON_GIVEN_STEPS, with_inputs
from dreamprm_jax.schema import canonical_json, content_hash

FORMAT = 6  # raise when the meaning of a stage's output or of a default changes: earlier workdirs are then redone


def fingerprint(config: Config, stage: str, root: Path | None = None) -> str:
    """Hash of all settings that a stage's output depends on, and of the content of the files that they name.

    Settings at their defaults do not count, so that a field that is added later leaves earlier workdirs valid.

    Args:
      config: the run's settings.
      stage: name of the stage.
      root: the run's folder, which remembers the digests of files that are gone.

    Raises:
      DataError: when a file cannot be read.
    """
    sections = {section for name in with_inputs(stage) for section in STAGES[name].sections}
    if stage == "train" and config.train.step_data.path:
        sections = set(TRAIN_ON_GIVEN_STEPS.sections)
    return settings_digest(config, sections, InputDigests(root), stage)


def settings_digest(config: Config, sections: set[str], inputs: InputDigests, *parts: str) -> str:
    """Hash of the settings of some sections that affect the output.

    Args:
      config: all settings.
      sections: names of the sections that count.
      inputs: digests of the files that settings name.
      *parts: what else counts.
    """
    return content_hash(str(FORMAT), *parts, canonical_json(effective_settings(config, sections, inputs)), digits=16)


def effective_settings(config: Config, sections: set[str], inputs: InputDigests) -> dict[str, Any]:
    """Field name -> value, or content digest, of the settings that affect the output and are not at their default."""
    default = {name: value for name, value, _ in leaves(Config())}
    return {
        name: inputs.meaning(name, value, info)
        for name, value, info in leaves(config)
        if info.affects_output
        and name.split(".")[0] in sections
        and (value != default[name] or inputs.meaning(name, value, info) != value)
    }
