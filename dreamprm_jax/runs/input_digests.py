"""Content digests of the files that settings name. A stage is redone if a file changes, but not if it moves.

A run stores its digests in its folder. Finished work therefore stays valid if the files are deleted, or are not copied
to another machine together with the run. Large files are hashed only once.
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
_FILES_IN_FOLDER = {  # SettingInfo.reads -> the files of a folder that are hashed; by default all
    "tokenizer": ("chat_template.jinja", "tokenizer_config.json"),
    "problem_ids": ("problems.parquet",),
}


class InputDigests:
    """The content digests of one run's input files, by setting and value."""

    def __init__(self, root: Path | None) -> None:
        """Loads the digests stored by the run in ``root``. With None, none are loaded or stored."""
        self._path = None if root is None else root / FILE
        known = read_json(self._path) if self._path is not None and self._path.is_file() else {}
        self._known: dict[str, dict[str, Any]] = known
        self._saved = dict(known)

    def digest_or_value(self, name: str, value: Any, info: SettingInfo) -> Any:
        """The content digest of the file, folder or function that the setting ``name`` refers to, or else its value.

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
      path: a file or a folder. Hidden files of a folder are ignored.
      reads: ``SettingInfo.reads`` of the setting, which selects the files of a folder that are hashed.
      known: ``files`` of an earlier result. Files with the same size and modification time are not read again.

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
