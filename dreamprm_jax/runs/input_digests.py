"""Files of the user's that settings name: they count with their content, not their place."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from dreamprm_jax.storage import file_hash, read_json, write_json

# Edited, such a file is read again. Not so the replay policy's: to answer what failed, its file grows, and the work
# that is done must stay.
_FIELDS = (
    "problems.path", "generate.candidates", "policy.chat_template", "train.labels.stored", "train.labels.clean_labels",
)  # fmt: skip
_OF_A_FOLDER = ("chat_template.jinja", "tokenizer_config.json")  # what is read of a tokenizer's
_MEMORY = "files.json"


def remembered(root: Path | None) -> dict[str, str]:
    """What the files of a run held when it last worked: hash by field and path."""
    path = None if root is None else root / _MEMORY
    return read_json(path) if path is not None and path.is_file() else {}


def remember(settings: dict[str, Any], root: Path) -> None:
    """Writes into the run's folder what the files that its settings name hold now.

    A finished stage is then known where the files are gone: deleted, or not copied to another machine with the run.
    """
    known = remembered(root)
    memory = dict(known)
    for field in _FIELDS:
        value: Any = settings
        for part in field.split("."):
            value = value[part]
        if digest := _digest(value):
            memory[_key(field, value)] = digest
    if memory != known:
        write_json(root / _MEMORY, memory)


def content(field: str, value: Any, memory: dict[str, str]) -> Any:
    """What a setting stands for: the content of the file that it names, now or as remembered, or the value itself."""
    if field not in _FIELDS or not isinstance(value, str):
        return value
    return _digest(value) or memory.get(_key(field, value), value)


def _key(field: str, value: str) -> str:
    return f"{field}={value}"


def _digest(value: str) -> str | None:
    path = Path(value)
    if not value:
        return None
    if path.is_file():
        stat = path.stat()
        return _file_hash(value, stat.st_mtime_ns, stat.st_size)
    found = [digest for name in _OF_A_FOLDER if (digest := _digest(str(path / name)))] if path.is_dir() else []
    return " ".join(found) or None


@functools.lru_cache(maxsize=64)
def _file_hash(path: str, modified: int, size: int) -> str:
    return file_hash(Path(path))
