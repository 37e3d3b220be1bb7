"""The fingerprint of a stage: a hash of everything that its output depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, leaves
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.stage_graph import STAGES, stage_of, with_inputs
from dreamprm_jax.schema import canonical_json, content_hash

FORMAT = 6  # increment when a stage's output or a default changes meaning: stages in earlier workdirs then run again


def fingerprint(config: Config, stage: str, root: Path | None = None) -> str:
    """Hash of all settings that a stage's output depends on, and of the content of the files that they name.

    Settings at their defaults are ignored, so that a field added later leaves earlier workdirs valid.

    Args:
      config: The run's settings.
      stage: Name of the stage.
      root: The run's folder, which stores the digests of files that have been deleted since.

    Raises:
      DataError: if a file cannot be read.
    """
    own = stage_of(config, stage)
    stages = [STAGES[name] for name in with_inputs(stage)] if own.inputs else [own]
    sections = {section for one in stages for section in (*one.sections, *one.settings)}
    return settings_digest(config, sections, InputDigests(root), stage)


def settings_digest(config: Config, sections: set[str], inputs: InputDigests, *parts: str) -> str:
    """Hash of the settings that affect the output and differ from their defaults, and of additional texts.

    Args:
      sections: Names of sections, or dotted names of single settings, to include.
      inputs: Digests of the files that settings name.
      parts: Additional texts to hash.
    """
    return content_hash(str(FORMAT), *parts, canonical_json(effective_settings(config, sections, inputs)), digits=16)


def effective_settings(config: Config, sections: set[str], inputs: InputDigests) -> dict[str, Any]:
    """Maps the names of the settings that ``settings_digest`` hashes to their values or content digests.

    The arguments are those of ``settings_digest``.
    """
    default = {name: value for name, value, _ in leaves(Config())}
    return {
        name: resolved
        for name, value, info in leaves(config)
        if info.affects_output
        and (name.split(".")[0] in sections or name in sections)
        and ((resolved := inputs.digest_or_value(name, value, info)) != value or value != default[name])
    }
