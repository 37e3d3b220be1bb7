"""Makes only the named third-party packages importable for programs, wherever they are installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Sequence
from importlib import _bootstrap_external
from importlib.machinery import FileFinder, ModuleSpec
from types import ModuleType


class OfferedPackages:
    """An import finder for a fixed set of packages; folders of installed packages are never searched."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's spec, or None for any other module (submodules are found through the package's path)."""
        folder = self._folders.get(name)
        if folder is None:
            return None
        if not os.path.isdir(folder):  # a module of one file
            return importlib.util.spec_from_file_location(name, folder)
        return importlib.util.spec_from_file_location(
            name, f"{folder}/__init__.py", submodule_search_locations=[folder]
        )


def offer(folders: dict[str, str]) -> None:
    """Makes packages importable. ``folders`` maps the name of a package to its folder or single file."""
    sys.meta_path.append(OfferedPackages(folders))


class _ListedFolder(FileFinder):
    """The finder of a folder that is listed once and cannot be listed again."""

    def invalidate_caches(self) -> None:
        """Does nothing, so that the listing is kept."""

    def _fill_cache(self) -> None:
        if not getattr(self, "_path_cache", None):
            super()._fill_cache()  # type: ignore[misc]


def keep_listings(readable: Collection[str]) -> None:
    """Lists the folders of ``sys.path`` before access is restricted to ``readable``."""
    for folder in sys.path:
        if os.path.isdir(folder) and folder not in readable:
            finder = _ListedFolder(folder, *_bootstrap_external._get_supported_file_loaders())  # type: ignore[attr-defined]
            finder._fill_cache()
            sys.path_importer_cache[folder] = finder
