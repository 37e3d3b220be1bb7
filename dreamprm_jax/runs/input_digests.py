"""Content digests of the files that settings name: a stage is redone when a file changes, not when it moves.

A run stores its digests in its folder. Finished work thus stays valid after the files were deleted or were not copied
to another machine with the run, and large files are hashed once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dreamprm_jax.config import SettingInfo
from dreamprm_jax.schema import DataError, content_hash
from dreamprm_jax.storage import file_hash, read_json, write_json
from dreamprm_jax.user_code import is_user_function, user_function_digest

FILE = "inputs.json"
_FILES_IN_FOLDER = {  # SettingInfo.reads -> the only files of a folder that are hashed; otherwise all of them
    "tokenizer": ("chat_template.jinja", "tokenizer_config.json"),
    "problem_ids": ("problems.parquet",),
}


class InputDigests:
    """The content digests of one run's input files, by setting and value."""

    def __init__(self, root: Path | None) -> None:
        """Loads the digests that the run in ``root`` has stored; with None, none are loaded or stored."""
        self._path = None if root is None else root / FILE
        known = read_json(self._path) if self._path is not None and self._path.is_file() else {}
        self._known: dict[str, dict[str, Any]] = known
        self._saved = dict(known)

    def digest_or_value(self, name: str, value: Any, info: SettingInfo) -> Any:
        """The content digest of the file, folder or function that the setting ``name`` names; otherwise its value.

        Raises:
          DataError: if a file cannot be read.
        """
        if info.reads == "function":
            names = value if isinstance(value, tuple) else (value,)
            digests = tuple(user_function_digest(one) if is_user_function(one) else one for one in names)
            return digests if isinstance(value, tuple) else digests[0]
        if not info.reads or not value:
            return value
        key = f"{name}={value}"
        found = path_digest(Path(value), info.reads, self._known.get(key, {}).get("files", {}))
        if found is not None:
            self._known[key] = found
        return self._known.get(key, {}).get("digest", value)

    def save(self) -> None:
        """Writes new digests into the run's folder."""
        if self._path is not None and self._known != self._saved:
            write_json(self._path, self._known)
            self._saved = dict(self._known)


def path_digest(
    path: Path, reads: str = "", known: Mapping[str, list[Any]] = MappingProxyType({})
) -> dict[str, Any] | None:
    """The digest of a file or folder, or None if it does not exist.

    Args:
      path: a file or a folder.
      reads: what the setting that names it reads (``SettingInfo.reads``): which files of a folder count.
      known: ``files`` of an earlier result; those whose size and modification time are the same are not read again.

    Raises:
      DataError: if a file cannot be read.
    """
    try:
        if path.is_file():
            files = {"": path}
        elif path.is_dir():
            names = _FILES_IN_FOLDER.get(reads)
            inside = [path / name for name in names] if names else sorted(path.rglob("*"))
            files = {str(one.relative_to(path)): one for one in inside if one.is_file() and not _hidden(one, path)}
        else:
            return None
        stats = {name: (one.stat().st_size, one.stat().st_mtime_ns) for name, one in files.items()}
        hashes = {
            name: known[name][2]
            if name in known and tuple(known[name][:2]) == stats[name]
            else _file_hash(str(one.resolve()), *stats[name])
            for name, one in files.items()
        }
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    digest = content_hash(*(text for item in sorted(hashes.items()) for text in item))
    return {"digest": digest, "files": {name: [*stats[name], hashes[name]] for name in files}}


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, modified: int) -> str:
    """Hash of a file's bytes, cached by path, size and modification time."""
    return file_hash(Path(path))
