"""Metadata of settings fields: help, effect on the output, files read, valid range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Reads = Literal["", "path", "problem_ids", "tokenizer", "function"]
_KEY = "setting"
# Upper limits that the system's timers and counters take.
LONGEST = 1e9  # seconds
MOST_BYTES = 1 << 50


@dataclass(frozen=True)
class SettingInfo:
    """The metadata of one settings field.

    Attributes:
      help: One or more sentences for ``--help`` and the reference page.
      affects_output: Whether the output of a stage can depend on the value. If not, changing it repeats no stage.
      reads: What the value may name, and which content enters the fingerprint. "path": a file, or a folder with all
        its content; "problem_ids": a file, or problems.parquet of a folder; "tokenizer": a file, or the chat template
        of a tokenizer folder; "function": the file of FILE.py:FUNCTION; "": the value is not a path. If no such file
        exists (a hub id, a built-in name), the value itself enters the fingerprint.
      minimum: Inclusive lower limit, or None. Limits apply to every item of a tuple.
      maximum: Inclusive upper limit, or None.
      above: Exclusive lower limit, or None.
      nonempty: Whether an empty text or tuple is invalid.
    """

    help: str = ""
    affects_output: bool = True
    reads: Reads = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    nonempty: bool = False


def setting(default: Any, help: str, **info: Any) -> Any:
    """A dataclass field with a default and a ``SettingInfo``."""
    return dataclasses.field(default=default, metadata={_KEY: SettingInfo(help, **info)})


def section(cls: type, affects_output: bool = True) -> Any:
    """A dataclass field for a section of settings. ``affects_output=False`` applies to all fields of the section."""
    return dataclasses.field(default_factory=cls, metadata={_KEY: SettingInfo("", affects_output)})


def leaves(config: Any, prefix: str = "", affects_output: bool = True) -> Iterator[tuple[str, Any, SettingInfo]]:
    """Yields (dotted name, value, info) for every field of nested settings."""
    for field in dataclasses.fields(config):
        value, info = getattr(config, field.name), field.metadata.get(_KEY, SettingInfo())
        info = dataclasses.replace(info, affects_output=info.affects_output and affects_output)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.", info.affects_output)
        else:
            yield prefix + field.name, value, info
