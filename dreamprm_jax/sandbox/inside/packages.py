"""The third-party packages that programs may import: those named, wherever they lie, and nothing beside them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class OfferedPackages:
    """An import finder for a fixed set of packages; a folder of installed packages is never searched."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's spec, or None for any other module (submodules are found through the package's path)."""
        folder = self._folders.get(name)
        if folder is None:
            return None
        return importlib.util.spec_from_file_location(
            name, f"{folder}/__init__.py", submodule_search_locations=[folder]
        )


def offer(folders: dict[str, str]) -> None:
    """Makes packages importable.

    Args:
      folders: package name to its folder.
    """
    sys.meta_path.append(OfferedPackages(folders))
